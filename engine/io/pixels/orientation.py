"""Turning pixels that are stored in another order than they are shown in."""

import numpy as np
from numpy.typing import NDArray


def upright(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Pixels in the order in which they are shown (TIFF 6.0, Orientation)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
