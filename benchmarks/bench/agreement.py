"""How close answers are to the float32 models', on the images that were timed."""

import numpy as np

from medfocus.engine.runtime.graphs import Array


def mask_iou(found: Array, expected: Array) -> float:
    """The mean IoU of the masks of focus logits (B, h, w); two empty masks agree."""
    ours, theirs = found > 0, expected > 0
    common = (ours & theirs).sum((1, 2))
    union = (ours | theirs).sum((1, 2))
    return float(np.where(union == 0, 1.0, common / np.maximum(union, 1)).mean())


def worst_cosine(found: Array, expected: Array) -> float:
    """The lowest cosine similarity of embeddings (B, E)."""
    ours, theirs = (
        each / np.linalg.norm(each, axis=-1, keepdims=True)
        for each in (found.astype(np.float64), expected.astype(np.float64))
    )
    return float((ours * theirs).sum(-1).min())
