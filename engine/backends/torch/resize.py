"""Source pixels to the two models' inputs with PyTorch, on the device of the pixels.

Bitwise equal to `engine/preprocess/resize.py` with pillow 13: a horizontal and a vertical pass,
each a sum of integer pixels times fixed-point weights, rounded to an integer level.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medfocus.engine.preprocess.geometry import crop_offset, resized_size
from medfocus.settings import ClassifierInput, Interpolation

BITS = 22  # fractional bits of a weight; with the bits of a level they fill an int32
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # pixels to either side, when not downsizing


def segmenter_image(image: Tensor, size: int) -> Tensor:
    """See `preprocess.segmenter_pixels`: int32 (n, 3, H, W) -> (n, 3, S, S)."""
    return resize(image, size, size, "bilinear")


def classifier_image(image: Tensor, settings: ClassifierInput, pixel_aspect: float = 1.0) -> Tensor:
    """See `preprocess.classifier_pixels`: int32 (n, 3, H, W) -> (n, 3, R, R)."""
    size, mode = settings.size, settings.resize_mode
    height, width = resized_size(image.shape[2], image.shape[3], size, mode, pixel_aspect)
    resized = resize(image, height, width, settings.interpolation)
    top, left = crop_offset(height, size), crop_offset(width, size)
    # Negative padding crops; outside the image is black.
    return F.pad(resized, (-left, size - width + left, -top, size - height + top))


def resize(image: Tensor, height: int, width: int, interpolation: Interpolation) -> Tensor:
    """Resize levels, int32 from 0 to 255: (n, 3, H, W) -> (n, 3, height, width)."""
    passes = [(3, width), (2, height)]
    if down_first(image.shape[2], image.shape[3], height, width):
        passes.reverse()
    for axis, target in passes:
        if image.shape[axis] != target:
            image = _pass(image, axis, target, interpolation)
    return image


def down_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether pillow makes the vertical pass first: since version 13, found by experiment."""
    return new_height < height and 2 * (width - new_width) < height - new_height


def _pass(image: Tensor, axis: int, target: int, interpolation: Interpolation) -> Tensor:
    places, weights = _taps(image.shape[axis], target, interpolation, image.device)
    total: Tensor | None = None
    for place, weight in zip(places, weights, strict=True):
        term = image.index_select(axis, place) * (weight if axis == 3 else weight[:, None])
        total = term.add_(1 << (BITS - 1)) if total is None else total.add_(term)
    assert total is not None
    return (total >> BITS).clamp_(0, 255)


@lru_cache(maxsize=256)
def _taps(
    length: int, target: int, interpolation: Interpolation, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The source pixels of each new pixel, and their weights: (K, target), int64 and int32.

    Pillow's precompute_coeffs and normalize_coeffs_8bpc (src/libImaging/Resample.c): the filter
    is widened where the image shrinks, cut off at the edges, normalised and rounded.
    """
    scale = length / target
    widened = max(scale, 1.0)
    support = SUPPORT[interpolation] * widened
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)  # truncated, as C does
    stop = np.minimum((centre + support + 0.5).astype(np.int64), length)
    places = first + np.arange((stop - first).max())[:, None]  # (K, target)
    weights = _filter((places - centre + 0.5) / widened, interpolation) * (places < stop)
    weights /= weights.sum(0)
    whole = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights)).astype(np.int32)
    inside = np.minimum(places, length - 1)
    return torch.from_numpy(inside).to(device), torch.from_numpy(whole).to(device)


def _filter(x: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    """The triangle; or Keys's cubic with a = -1/2 (IEEE ASSP 29(6), 1981, eq. 15)."""
    x = np.abs(x)
    if interpolation == "bilinear":
        triangle: NDArray[np.float64] = np.maximum(1 - x, 0)
        return triangle
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(image / 255 − mean) / std: (n, 3, S, S) from 0 to 255; mean and std (3, 1, 1)."""
    return (image / 255 - mean) / std
