"""How near a contender's answers are to the float32 models', on the images that it was timed on."""

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.runtime.graphs import Array


def mask_iou(found: Array, expected: Array) -> float:
    """The mean IoU of the masks of focus logits (B, h, w); two empty masks agree."""
    ours, theirs = found > 0, expected > 0
    common = (ours & theirs).sum((1, 2))
    union = (ours | theirs).sum((1, 2))
    return float(np.where(union == 0, 1.0, common / np.maximum(union, 1)).mean())


def worst_cosine(found: Array, expected: Array) -> float:
    """The least cosine of embeddings (B, E)."""
    return float((_unit(found) * _unit(expected)).sum(-1).min())


def _unit(embedding: Array) -> NDArray[np.float64]:
    exact = embedding.astype(np.float64)
    unit: NDArray[np.float64] = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    return unit
