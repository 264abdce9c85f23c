"""PNG, JPEG, TIFF, WebP and BMP files to uint8 RGB, by pillow."""

import struct
import zlib
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
from medfocus.errors import ImageError

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
# Of one pixel while it is decoded: pillow's image, its RGB and the array.
_BYTES_PER_PIXEL = 16

# What pillow's decoders raise on damaged files; Warning for callers who turn pillow's warnings into
# errors.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


class PictureFile:
    """An open picture file; a TIFF may hold several pages.

    Raises:
        UnidentifiedImageError: none of `FORMATS`.
        ImageError: damaged, or larger than `max_pixels`.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        self._name, self._max_pixels = name, max_pixels
        try:
            self._image = Image.open(file, formats=FORMATS)
            self._held: int = getattr(self._image, "n_frames", 1)
        except UnidentifiedImageError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise too_large(name, "its declared size", max_pixels) from None
        except _DECODER_ERRORS:
            raise _damaged(name) from None

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
        try:
            if self.frames > 1:
                self._image.seek(index)
            decoded = rgb_of_pillow(self._image, self._name, self._max_pixels)
        except _DECODER_ERRORS:
            raise _damaged(self._name) from None
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
    try:
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
    except _DECODER_ERRORS:
        raise _damaged(name) from None


def _damaged(name: str) -> ImageError:
    problem = "is damaged, cut short or of an unsupported kind"
    return ImageError(name, problem, "export it again", code="image.damaged")
