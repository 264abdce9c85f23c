"""Augmented views of a phantom: the whole slice, or a close-up of a lesion."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.pretrain.pool import Sample


class View(NamedTuple):
    """A view of a phantom.

    Attributes:
        image: uint8 (R, R, 3).
        lesion: float32 (R, R) in [0, 1], the lesions' coverage of each pixel.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.float32]


def draw_view(
    sample: Sample, random: np.random.Generator, whole_share: float, size: int = 112
) -> View:
    """Draw a view, randomly mirrored, cropped and exposed.

    Args:
        sample: the phantom.
        random: the random generator.
        whole_share: share of whole slices; the others are close-ups of a lesion.
        size: R.
    """
    image, masks, side = sample.image, sample.masks, sample.image.shape[0]
    if random.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    box = (0.0, 0.0, float(side), float(side))
    if len(masks) and random.random() >= whole_share:
        box = _close_up(masks[random.integers(len(masks))], side, random)
    lesion = np.logical_or.reduce(masks, axis=0)
    seen = Image.fromarray(np.ascontiguousarray(image)).resize(
        (size, size), Image.Resampling.BICUBIC, box=box
    )
    covered = Image.fromarray(lesion.astype(np.float32)).resize(
        (size, size), Image.Resampling.BOX, box=box
    )
    return View(_expose(np.asarray(seen), random), np.asarray(covered))


def _expose(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Randomly change brightness, contrast and gamma."""
    gain, offset, gamma = (
        random.uniform(0.7, 1.2),
        random.uniform(-25, 25),
        random.uniform(0.7, 1.4),
    )
    scaled = 255 * (pixels / 255) ** gamma * gain + offset
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _close_up(
    mask: np.ndarray, side: int, random: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random square (left, top, right, bottom) in the image that contains the whole lesion."""
    pixels = np.argwhere(mask)[:, ::-1]
    low, high = pixels.min(0), pixels.max(0) + 1
    extent = float((high - low).max())
    width = min(extent * random.uniform(1.1, 3.0), side)
    left, top = (
        random.uniform(max(high[axis] - width, 0), min(low[axis], side - width) + 1e-6)
        if high[axis] - width < min(low[axis], side - width)
        else min(max(low[axis], 0), side - width)
        for axis in (0, 1)
    )
    return float(left), float(top), float(left + width), float(top + width)
