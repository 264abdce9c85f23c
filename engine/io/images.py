"""Reading one source (a file, an array, a tensor, a pillow image) into RGB images."""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from medfocus.engine.io import dicom
from medfocus.engine.io.arrays import (
    MIN_MAX_NOTE,
    TensorLike,
    channels_last,
    check_size,
    over_black,
    rgb,
    rgb_of_deep_grey,
    too_large,
)
from medfocus.errors import ImageError

# Limit on one source, all its pages or frames together, checked before decoding. Enough for an
# enhanced CT of 512 slices of 512 × 512, and below the limit of pillow itself.
MAX_PIXELS = 2**27

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_SUPPORTED = f"give a file in one of {', '.join(_FORMATS)} or DICOM"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# What pillow's decoders raise on damaged files; Warning for callers who turn pillow's warnings into
# errors.
_DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


ImageSource = str | Path | NDArray[Any] | Image.Image | TensorLike


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One decoded image.

    Attributes:
        pixels: uint8 RGB (H, W, 3), a copy of what the caller gave.
        source: the path or the caller's name; with "#frame", from 0, if one file holds several.
        warnings: how the pixels were altered, for the reader of the prediction.
    """

    pixels: NDArray[np.uint8]
    source: str
    warnings: tuple[str, ...] = ()


def read_images(source: ImageSource, name: str | None = None) -> list[SourceImage]:
    """Read every image of one source.

    Files: PNG, JPEG, TIFF (one image per page), WebP, BMP and DICOM (one image per frame). EXIF
    orientation is applied, and alpha is composited over black. Grey of more than 8 bits has no
    fixed scale and is min-max normalised, with a warning.

    Arrays are (H, W) or (H, W, 1|3|4), tensors (H, W) or (1|3|4, H, W): bool (black and white),
    uint8 (as is), other integers (min-max normalised, with a warning), floats in [0, 1].

    Args:
        source: a path, a numpy array, a torch tensor or a pillow image (its current frame).
        name: of the source in errors and results; by default the path, or the kind of object.

    Raises:
        ImageError: the source cannot be read.
    """
    if isinstance(source, str | Path):
        return _read_file(Path(source), name or str(source))
    if isinstance(source, Image.Image):
        return [_from_pillow(source, name or "pillow image")]
    if isinstance(source, np.ndarray):
        return [_from_array(source, name or "array")]
    if isinstance(source, TensorLike):
        return [_from_array(channels_last(source, name or "tensor"), name or "tensor")]
    raise ImageError(
        name or "image",
        f"is a {type(source).__name__}",
        "give a path, a numpy array, a torch tensor or a pillow image",
        code="image.not_an_image",
    )


def _read_file(path: Path, name: str) -> list[SourceImage]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problem, hint = "is not a regular file", "give the path of one image file"
            raise ImageError(name, problem, hint, code="image.not_an_image")
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise ImageError(name, "does not exist", "check the path", code="image.not_found") from None
    except PermissionError:
        problem, hint = "may not be read by this user", "change the file's permissions"
        raise ImageError(name, problem, hint, code="image.not_permitted") from None
    except (OSError, ValueError) as error:
        raise ImageError(name, f"cannot be opened ({error})", "check the path") from error
    if not head:
        raise ImageError(name, "is empty", "copy the file again", code="image.empty")
    if head.startswith(_LFS_POINTER):
        problem = "is a Git LFS pointer, not the image"
        raise ImageError(name, problem, "git lfs pull", code="image.lfs_pointer")
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return _read_dicom(path, name)
    try:
        return _read_picture(path, name)
    except UnidentifiedImageError:
        if not path.suffix:  # DICOM files often have no suffix, and some no "DICM" prefix
            return _read_dicom(path, name)
        problem = "is not in a supported image format, whatever its suffix"
        raise ImageError(name, problem, _SUPPORTED, code="image.not_an_image") from None


def _read_dicom(path: Path, name: str) -> list[SourceImage]:
    frames = dicom.read_frames(path, name, MAX_PIXELS)
    if len(frames) == 1:
        return [SourceImage(frames[0].pixels, name, frames[0].warnings)]
    return [
        SourceImage(frame.pixels, f"{name}#{index}", frame.warnings)
        for index, frame in enumerate(frames)
    ]


def _read_picture(path: Path, name: str) -> list[SourceImage]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return list(_pages(image, name))
    except UnidentifiedImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(name, "its declared size", MAX_PIXELS) from None
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error


def _pages(image: Image.Image, name: str) -> Iterator[SourceImage]:
    count = getattr(image, "n_frames", 1)
    if image.format != "TIFF":
        only = _from_pillow(image, name)
        note = () if count == 1 else (f"animated: the first of its {count} frames is used",)
        yield SourceImage(only.pixels, name, only.warnings + note)
        return
    total = 0
    for page in range(count):
        image.seek(page)
        total += image.width * image.height
        check_size(total, name, MAX_PIXELS)
        yield _from_pillow(image, name if count == 1 else f"{name}#{page}")


def _from_pillow(image: Image.Image, name: str) -> SourceImage:
    check_size(image.width * image.height, name, MAX_PIXELS)
    if 0 in image.size:
        hint = "give an image of at least 1 x 1"
        raise ImageError(name, "has no pixels", hint, code="image.empty")
    try:
        inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):  # float32 or 16 and 32-bit grey
            return SourceImage(rgb_of_deep_grey(np.asarray(image), name), name, (MIN_MAX_NOTE,))
        if inverted:
            # pillow treats every CMYK JPEG as Adobe's, whose inks are stored inverted.
            image = ImageChops.invert(image)
        if image.has_transparency_data:
            return SourceImage(over_black(np.asarray(image.convert("RGBA"))), name)
        return SourceImage(np.array(image.convert("RGB")), name)
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error


def _from_array(array: NDArray[Any], name: str) -> SourceImage:
    pixels, warnings = rgb(array, name, MAX_PIXELS)
    return SourceImage(pixels, name, warnings)


def _damaged(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    problem = f"is damaged, cut short or unsupported ({reason})"
    return ImageError(name, problem, "export it again", code="image.damaged")
