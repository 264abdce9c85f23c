"""A focus mask in the frame of its image."""

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 512  # bounds the temporaries of a large image's mask


def mask_at(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """Where logits (h, w), resized bilinearly to (height, width), are positive: bool.

    The sampling of torch.nn.functional.interpolate(mode="bilinear", align_corners=False), which
    SAM2 uses on its masks.
    """
    top, bottom, down = _neighbours(logits.shape[0], height)
    left, right, across = _neighbours(logits.shape[1], width)
    mask = np.empty((height, width), bool)
    for start in range(0, height, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        weight = down[rows, None]
        band = logits[top[rows]] * (1 - weight) + logits[bottom[rows]] * weight  # (rows, w)
        mask[rows] = band[:, left] * (1 - across) + band[:, right] * across > 0  # (rows, W)
    return mask


def _neighbours(
    length: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two samples around each of `target` pixels, and the weight of the second."""
    position = np.maximum((np.arange(target) + 0.5) * (length / target) - 0.5, 0)
    first = np.minimum(position.astype(np.intp), length - 1)
    second = np.minimum(first + 1, length - 1)
    return first, second, (position - first).astype(np.float32)
