"""The classifier's view: its input in source pixels, and its patches in a mask."""

from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from medfocus.errors import InputError
from medfocus.settings import ResizeMode


def resized_size(
    height: int, width: int, size: int, mode: ResizeMode, pixel_aspect: float = 1.0
) -> tuple[int, int]:
    """Height and width, in pixels, to which open_clip resizes an image before it crops or pads.

    The resized pixels are square, whatever the aspect of the image's own: its height counts
    `pixel_aspect` times. Only "squash" stretches to a square in any case.

    The rounding is open_clip's: "shortest" truncates the longer side (torchvision's Resize),
    "longest" rounds both sides half to even. A side that would vanish in "longest" mode, where
    open_clip fails, keeps one pixel.
    """
    if mode == "squash":
        return size, size
    down, across = _whole(pixel_aspect)
    tall, wide = height * down, width * across
    if mode == "shortest":
        if wide <= tall:
            return int(size * tall / wide), size
        return size, int(size * wide / tall)
    ratio = max(tall / size, wide / size)
    return max(1, round(tall / ratio)), max(1, round(wide / ratio))


def _whole(aspect: float) -> tuple[int, int]:
    """A pixel's height and width in whole numbers: the float 0.2 is a little more than 1:5."""
    if aspect < 1:
        across, down = _whole(1 / aspect)
        return down, across
    ratio = Fraction(aspect).limit_denominator(10**6)
    return ratio.numerator, ratio.denominator


def crop_offset(resized: int, size: int) -> int:
    """First row (or column) of the centred crop of `size`; negative if it starts in padding."""
    if resized < size:
        return -((size - resized) // 2)
    return round((resized - size) / 2)


@dataclass(frozen=True)
class Geometry:
    """The part of a source image that the classifier's square input covers.

    Attributes:
        height: source image height, pixels.
        width: source image width, pixels.
        top: upper edge of the input in source pixels; negative if it is in padding above.
        left: left edge, likewise.
        bottom: lower edge; more than `height` if it is in padding below.
        right: right edge, likewise.
    """

    height: int
    width: int
    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def fit(
        cls, height: int, width: int, size: int, mode: ResizeMode, pixel_aspect: float = 1.0
    ) -> "Geometry":
        """Geometry of open_clip's evaluation transform from height × width to size × size.

        Args:
            height: of the image, in pixels as they are stored.
            width: likewise.
            size: side of the classifier's input, in square pixels.
            mode: open_clip's resize mode.
            pixel_aspect: a stored pixel's height over its width.

        Raises:
            InputError: a side that is not positive, or an unknown mode.
        """
        if min(height, width, size) < 1:
            raise InputError(
                f"image of {height} x {width} for an input of {size} x {size}",
                "has a side without pixels",
                "give sides of at least 1",
            )
        if mode not in get_args(ResizeMode):
            raise InputError(
                f"resize mode {mode!r}",
                "is unknown",
                f"use one of {', '.join(get_args(ResizeMode))}",
            )
        resized_height, resized_width = resized_size(height, width, size, mode, pixel_aspect)
        top = crop_offset(resized_height, size)
        left = crop_offset(resized_width, size)
        return cls(
            height=height,
            width=width,
            top=top * height / resized_height,
            left=left * width / resized_width,
            bottom=(top + size) * height / resized_height,
            right=(left + size) * width / resized_width,
        )


def pooling_weights(
    geometry: Geometry, cells: int, mask_height: int, mask_width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Area-overlap weights that average a whole-image mask over the classifier's patches.

    The mask covers the whole source image, resized to (mask_height, mask_width); the patches are
    cells × cells equal rectangles of the classifier's input. The overlap of rectangles is
    separable, so `rows @ mask @ cols.T` (g, g) is the exact area average. Outside the image the
    mask counts as 0.

    Returns:
        rows (cells, mask_height) and cols (cells, mask_width), float32, computed in float64.
    """
    rows = _overlap(geometry.top, geometry.bottom, cells, geometry.height, mask_height)
    cols = _overlap(geometry.left, geometry.right, cells, geometry.width, mask_width)
    return rows, cols


def _overlap(
    start: float, stop: float, cells: int, length: int, mask_length: int
) -> NDArray[np.float32]:
    """Fraction of each of `cells` parts of [start, stop] that each pixel of [0, length] covers."""
    cell_edges = start + (stop - start) * np.arange(cells + 1) / cells  # (g+1,)
    mask_edges = length * np.arange(mask_length + 1) / mask_length  # (h+1,)
    lower = np.maximum(cell_edges[:-1, None], mask_edges[None, :-1])  # (g, h)
    upper = np.minimum(cell_edges[1:, None], mask_edges[None, 1:])  # (g, h)
    fraction: NDArray[np.float64] = np.maximum(upper - lower, 0) * cells / (stop - start)
    return fraction.astype(np.float32)
