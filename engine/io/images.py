"""Images to uint8 RGB pixels: what callers may give, and what everything else works on."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine.io.arrays import TensorLike, channels_last, rgb
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.in_memory import InMemoryFile
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.pictures import rgb_of_pillow
from medfocus.errors import ImageError

# Limit on one image, checked before decoding; below the limit of pillow itself.
MAX_PIXELS = 2**27

InMemoryImage = NDArray[Any] | Image.Image | TensorLike
ImageSource = str | os.PathLike[str] | InMemoryFile | InMemoryImage


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One decoded image.

    Attributes:
        pixels: uint8 RGB (H, W, 3), a copy of what the caller gave.
        source: the path or the caller's name; with "#frame", from 0, if one file holds several.
        warnings: how the pixels were altered, for the reader of the prediction.
        pixel_aspect: a stored pixel's height over its width. Pixels are never resampled to make
            them square; the resize for the classifier takes it into account.
    """

    pixels: NDArray[np.uint8]
    source: str
    warnings: tuple[Notice, ...] = ()
    pixel_aspect: float = 1.0


def converted(image: InMemoryImage, name: str) -> SourceImage:
    """An image in memory as uint8 RGB, a copy.

    Arrays are (H, W) or (H, W, 1|3|4), tensors (H, W) or (1|3|4, H, W): bool (black and white),
    uint8 (as is), other integers (min-max normalised, with a warning), floats in [0, 1]. Of a
    pillow image the current frame is taken.

    Args:
        image: what the caller gave.
        name: of the image, in errors and results.

    Raises:
        ImageError: it is no image.
    """
    if isinstance(image, Image.Image):
        return named(rgb_of_pillow(image, name, MAX_PIXELS), name)
    if isinstance(image, np.ndarray):
        array = image
    elif isinstance(image, TensorLike):
        array = channels_last(image, name)
    else:
        raise ImageError(
            name,
            f"is a {type(image).__name__}",
            "give a path, bytes, a binary file, a Dataset, an array, a tensor or a pillow image",
            code="image.not_an_image",
        )
    return named(rgb(array, name, MAX_PIXELS), name)


def named(frame: Frame, name: str) -> SourceImage:
    """A decoded image with its name."""
    return SourceImage(frame.pixels, name, frame.warnings, frame.pixel_aspect)
