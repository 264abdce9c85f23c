"""PNG, JPEG, TIFF, WebP and BMP files to uint8 RGB, by pillow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from medfocus.engine.io.arrays import (
    MIN_MAX_NOTE,
    check_size,
    over_black,
    rgb_of_deep_grey,
    too_large,
)
from medfocus.engine.io.dicom_display import Frame
from medfocus.errors import ImageError, MedfocusError

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
# Of one pixel while it is decoded: pillow's image, its RGB and the array.
_BYTES_PER_PIXEL = 16


class PictureFile:
    """An open picture file; a TIFF may hold several pages.

    Raises:
        UnidentifiedImageError: none of `FORMATS`.
        ImageError: damaged, or larger than `max_pixels`.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        self._name, self._max_pixels = name, max_pixels
        with _failing(name, max_pixels):
            self._image = Image.open(file, formats=FORMATS)
            self._held: int = getattr(self._image, "n_frames", 1)

    @property
    def frames(self) -> int:
        """See `ImageFile`."""
        return self._held if self._image.format == "TIFF" else 1

    @property
    def decoding_bytes(self) -> int:
        """See `ImageFile`."""
        return self._image.width * self._image.height * _BYTES_PER_PIXEL

    def frame(self, index: int) -> Frame:
        """See `ImageFile`."""
        with _failing(self._name, self._max_pixels):
            if self.frames > 1:
                self._image.seek(index)
            decoded = rgb_of_pillow(self._image, self._name, self._max_pixels)
        if self._held == self.frames:
            return decoded
        note = f"animated: the first of its {self._held} frames is used"
        return Frame(decoded.pixels, (*decoded.warnings, note))


def rgb_of_pillow(image: Image.Image, name: str, max_pixels: int) -> Frame:
    """The current frame of a pillow image.

    Raises:
        ImageError: too large, empty, damaged, or of values that are not finite.
    """
    check_size(image.width * image.height, name, max_pixels)
    if 0 in image.size:
        hint = "give an image of at least 1 x 1"
        raise ImageError(name, "has no pixels", hint, code="image.empty")
    with _failing(name, max_pixels):
        inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):  # float32 or 16 and 32-bit grey
            return Frame(rgb_of_deep_grey(np.asarray(image), name), (MIN_MAX_NOTE,))
        if inverted:
            # pillow treats every CMYK JPEG as Adobe's, whose inks are stored inverted.
            image = ImageChops.invert(image)
        if image.has_transparency_data:
            return Frame(over_black(np.asarray(image.convert("RGBA"))), ())
        return Frame(np.array(image.convert("RGB")), ())


@contextmanager
def _failing(name: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except (MedfocusError, MemoryError, UnidentifiedImageError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(name, "its declared size", max_pixels) from None
    except Exception:  # of any class: nobody knows what a decoder raises on damaged data
        problem = "is damaged, cut short or of an unsupported kind"
        raise ImageError(name, problem, "export it again", code="image.damaged") from None
