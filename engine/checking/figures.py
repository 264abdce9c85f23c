"""The figures by which outputs are compared with a reference's, one number per image."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def cosine(found: Array, expected: Array) -> NDArray[np.float64]:
    """Cosine similarity of embeddings (N, E) in float64: (N,)."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    similarity: NDArray[np.float64] = (a * b).sum(-1) / (
        np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    )
    return similarity


def mask_iou(found: Array, expected: Array) -> NDArray[np.float64]:
    """IoU of masks (N, h, w) at logits > 0: (N,); 1 where both are empty."""
    a, b = found > 0, expected > 0
    union = (a | b).sum((1, 2))
    share: NDArray[np.float64] = (a & b).sum((1, 2)) / np.maximum(union, 1)
    # A mask of NaN would count as empty, and must not agree with an empty one.
    finite = np.isfinite(found).all((1, 2))
    return np.where(union > 0, share, 1.0) * finite


def mask_logit_error(found: Array, expected: Array) -> NDArray[np.float64]:
    """Largest difference of mask logits (N, h, w) over the largest expected logit: (N,)."""
    difference = np.abs(found.astype(np.float64) - expected).max((1, 2))
    error: NDArray[np.float64] = difference / np.abs(expected).max((1, 2))
    return error


def largest_difference(found: Array, expected: Array) -> float:
    """The largest absolute difference of any value."""
    return float(np.abs(found.astype(np.float64) - expected).max())
