"""How a batch's images are resized on the device: the two passes over each, and their weights.

With `kernels.resize` bitwise equal to `engine/preprocess/resize.py` with pillow 13.
"""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.preprocess.geometry import crop_offset, resized_size
from medfocus.kernels.resize import BITS, Pass
from medfocus.settings import ClassifierInput, Interpolation

SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # pixels to either side, when not downsizing


class Axis(NamedTuple):
    """One axis of a model's input.

    Attributes:
        length: of the image, pixels.
        target: of the resized image.
        offset: first pixel of the crop in the resized image; negative if it starts in padding.
        size: of the crop.
        interpolation: the filter.
    """

    length: int
    target: int
    offset: int
    size: int
    interpolation: Interpolation


class Frame(NamedTuple):
    """A model's input of an image."""

    rows: Axis
    columns: Axis

    @property
    def rows_first(self) -> bool:
        """Whether pillow makes the vertical pass first: since version 13, found by experiment."""
        less_high, less_wide = (axis.length - axis.target for axis in self)
        return less_high > 0 and 2 * less_wide < less_high

    @property
    def between(self) -> int:
        """Bytes of the image after the first of the two passes."""
        if self.rows_first:
            return 3 * self.rows.size * self.columns.length
        return 3 * self.rows.length * self.columns.size

    @property
    def taps(self) -> int:
        """The most that both tables of taps can hold, numbers of 4 bytes."""
        return sum((1 + _most_taps(axis)) * axis.size for axis in self)


def segmenter_frame(height: int, width: int, size: int) -> Frame:
    """As `preprocess.segmenter_pixels`."""
    return Frame(Axis(height, size, 0, size, "bilinear"), Axis(width, size, 0, size, "bilinear"))


def classifier_frame(
    height: int, width: int, settings: ClassifierInput, pixel_aspect: float = 1.0
) -> Frame:
    """As `preprocess.classifier_pixels`."""
    size, kind = settings.size, settings.interpolation
    targets = resized_size(height, width, size, settings.resize_mode, pixel_aspect)
    rows, columns = (
        Axis(length, target, crop_offset(target, size), size, kind)
        for length, target in zip((height, width), targets, strict=True)
    )
    return Frame(rows, columns)


class Taps:
    """The tables of a batch's images, each one once.

    Args:
        numbers: where they are written, from the start.

    Attributes:
        end: how many numbers were written.
    """

    def __init__(self, numbers: NDArray[np.int32]) -> None:
        self.numbers, self.end = numbers, 0
        self._placed: dict[Axis, tuple[int, int]] = {}

    def place(self, axis: Axis) -> tuple[int, int]:
        """The offset of an axis's table, and its number of weights per pixel."""
        if axis not in self._placed:
            table = taps(axis)
            self.numbers[self.end : self.end + table.size] = table.reshape(-1)
            self._placed[axis] = self.end, len(table) - 1
            self.end += table.size
        return self._placed[axis]


def passes(frame: Frame, source: int, between: int, out: int, taps: Taps) -> tuple[Pass, Pass]:
    """The two passes over an uint8 RGB image (H, W, 3), horizontally first unless pillow does not.

    Args:
        frame: the model's input.
        source: offset of the image.
        between: offset of the image after the first pass.
        out: offset of the model's input.
        taps: takes the weights.
    """
    rows, columns = frame
    height = rows.size if frame.rows_first else rows.length
    width = columns.length if frame.rows_first else columns.size
    across, down = (0, *taps.place(columns)), (1, *taps.place(rows))
    first, second = (down, across) if frame.rows_first else (across, down)
    strides = 1, 3 * columns.length, 3  # of a channel, a row and a column
    return (
        Pass(source, *strides, height, width, between, *first),
        Pass(between, height * width, width, 1, rows.size, columns.size, out, *second),
    )


@lru_cache(maxsize=256)
def taps(axis: Axis) -> NDArray[np.int32]:
    """First source pixel and weights of each pixel: (1 + K, size), as `kernels.resize` reads them.

    Pillow's precompute_coeffs and normalize_coeffs_8bpc (src/libImaging/Resample.c): the filter
    is widened where the image shrinks, cut off at the edges, normalised and rounded. Padding has
    weights of 0.
    """
    length, target, offset, size, interpolation = axis
    scale = length / target
    widened = max(scale, 1.0)
    support = SUPPORT[interpolation] * widened
    pixel = np.arange(offset, offset + size)
    centre = (pixel + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)  # truncated, as C does
    stop = np.minimum((centre + support + 0.5).astype(np.int64), length)
    padding = (pixel < 0) | (pixel >= target)
    count = int((stop - first)[~padding].max())
    # All places are inside the image, so that the kernel needs no mask: some have a weight of 0.
    start = np.where(padding, 0, np.minimum(first, length - count))
    places = start + np.arange(count)[:, None]  # (K, size)
    used = (places >= first) & (places < stop) & ~padding
    weights = _filter((places - centre + 0.5) / widened, interpolation) * used
    weights /= np.where(padding, 1.0, weights.sum(0))
    whole = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return np.concatenate([start[None].astype(np.int32), whole])


def _most_taps(axis: Axis) -> int:
    """At least K: pillow's ksize, or the whole length."""
    widened = max(axis.length / axis.target, 1.0)
    return min(axis.length, 2 * ceil(SUPPORT[axis.interpolation] * widened) + 1)


def _filter(x: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    """The triangle; or Keys's cubic with a = -1/2 (IEEE ASSP 29(6), 1981, eq. 15)."""
    x = np.abs(x)
    if interpolation == "bilinear":
        triangle: NDArray[np.float64] = np.maximum(1 - x, 0)
        return triangle
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
