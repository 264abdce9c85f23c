"""One source (a file, an array, a tensor, a pillow image) to RGB images."""

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from medfocus.engine.io import dicom
from medfocus.engine.io.dicom_display import stretch
from medfocus.errors import ImageError

# An enhanced CT of 512 slices of 512 × 512, and below the size at which pillow itself refuses.
MAX_PIXELS = 2**27
"""Most pixels of one source, its pages or frames together; checked before they are decoded."""

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_SUPPORTED = f"{', '.join(_FORMATS)} and DICOM are supported"
_OWN_RANGE = "no fixed scale: grey levels stretched from the image's own range"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# What pillow's decoders raise on damaged files; Warning is there for callers who turn pillow's
# warnings into errors.
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


@runtime_checkable
class TensorLike(Protocol):
    """A torch.Tensor, told by its attributes, so that torch need not be installed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""


ImageSource = str | Path | NDArray[Any] | Image.Image | TensorLike


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One image to look at.

    Attributes:
        pixels: uint8 RGB (H, W, 3), owned: no view of what the caller gave.
        source: the path or the caller's name; "#frame", from 0, is added where one file holds many.
        warnings: what a reader of the prediction should know about how the pixels came to be.
    """

    pixels: NDArray[np.uint8]
    source: str
    warnings: tuple[str, ...] = ()


def read_images(source: ImageSource, name: str | None = None) -> list[SourceImage]:
    """Read every image of one source.

    Files: PNG, JPEG, TIFF (an image a page), WebP, BMP and DICOM (an image a frame). EXIF
    orientation is applied and alpha composited over black. Grey of more than 8 bits has no fixed
    scale and is stretched from the image's own range, with a warning.

    Arrays are (H, W) or (H, W, 1|3|4), tensors (H, W) or (1|3|4, H, W): bool (black and white),
    uint8 (as is), other integers (from their own range, with a warning), floats in [0, 1].

    Args:
        source: a path, a numpy array, a torch tensor or a pillow image (its current frame).
        name: what errors and results call it; by default the path, or the kind of object.

    Raises:
        ImageError: anything that keeps the source from being read, naming it and the hint.
    """
    if isinstance(source, str | Path):
        return _read_file(Path(source), name or str(source))
    if isinstance(source, Image.Image):
        return [_from_pillow(source, name or "pillow image")]
    if isinstance(source, np.ndarray):
        return [_from_array(source, name or "array")]
    if isinstance(source, TensorLike):
        return [_from_array(_channels_last(source, name or "tensor"), name or "tensor")]
    raise ImageError(
        name or "image",
        f"is a {type(source).__name__}",
        "Give a path, a numpy array, a torch tensor or a pillow image",
    )


def _read_file(path: Path, name: str) -> list[SourceImage]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(name, "is not a regular file", "Give the path of one image file")
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise ImageError(name, "does not exist", "Check the path") from None
    except PermissionError:
        raise ImageError(
            name, "may not be read by this user", "Change the file's permissions"
        ) from None
    except (OSError, ValueError) as error:
        raise ImageError(name, f"cannot be opened ({error})", "Check the path") from error
    if not head:
        raise ImageError(name, "is empty", "Copy the file again")
    if head.startswith(_LFS_POINTER):
        raise ImageError(
            name, "is a Git LFS pointer, not the image", "Fetch the image with: git lfs pull"
        )
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
        return _read_dicom(path, name)
    try:
        return _read_picture(path, name)
    except UnidentifiedImageError:
        if not path.suffix:  # as DICOM files often are named, some without the "DICM" mark
            return _read_dicom(path, name)
        raise ImageError(
            name, "is in no supported image format, whatever its name says", _SUPPORTED
        ) from None


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
        raise _too_large(name, "its declared size") from None
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
        _check_size(total, name)
        yield _from_pillow(image, name if count == 1 else f"{name}#{page}")


def _from_pillow(image: Image.Image, name: str) -> SourceImage:
    _check_size(image.width * image.height, name)
    if 0 in image.size:
        raise ImageError(name, "has no pixels", "Give an image of at least 1 x 1")
    try:
        inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):  # float32 or 16 and 32-bit grey
            return SourceImage(_grey(np.asarray(image), name), name, (_OWN_RANGE,))
        if inverted:
            # pillow takes every CMYK JPEG for Adobe's, whose inks are stored inverted.
            image = ImageChops.invert(image)
        if image.has_transparency_data:
            return SourceImage(_over_black(np.asarray(image.convert("RGBA"))), name)
        return SourceImage(np.array(image.convert("RGB")), name)
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error


def _from_array(array: NDArray[Any], name: str) -> SourceImage:
    shape = "x".join(map(str, array.shape)) or "no axes"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            name,
            f"has shape {shape}, which is no image",
            "Give (H, W) or (H, W, 1|3|4) arrays, or (1|3|4, H, W) tensors, one image each",
        )
    if array.size == 0:
        raise ImageError(name, f"has shape {shape}: no pixels", "Give an image of at least 1 x 1")
    _check_size(array.shape[0] * array.shape[1], name)
    channels = array.reshape(*array.shape[:2], -1)  # (H, W, C)
    notes: tuple[str, ...] = ()
    if array.dtype == np.uint8:
        levels = channels.astype(np.uint8)  # a copy
    elif array.dtype.kind == "b":
        levels = channels.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind in "iu":
        if channels.shape[2] == 4:
            raise ImageError(
                name,
                f"has an alpha channel of dtype {array.dtype}, whose scale is unknown",
                "Convert it to uint8, or to floats in [0, 1]",
            )
        levels, notes = stretch(channels), (_OWN_RANGE,)
    elif array.dtype.kind == "f":
        levels = _from_unit_range(channels, name)
    else:
        raise ImageError(
            name, f"has dtype {array.dtype}", "Use bool, an integer dtype, or floats in [0, 1]"
        )
    if levels.shape[2] == 4:
        return SourceImage(_over_black(levels), name, notes)
    if levels.shape[2] == 1:
        levels = levels.repeat(3, axis=2)
    return SourceImage(levels, name, notes)


def _channels_last(tensor: TensorLike, name: str) -> NDArray[Any]:
    try:
        host = tensor.detach().cpu()
        if host.is_floating_point():
            host = host.float()  # numpy has no bfloat16
        array = cast(NDArray[Any], host.numpy())
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ImageError(
            name, f"cannot be copied to the host ({error})", "Give a dense tensor with data"
        ) from error
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _from_unit_range(values: NDArray[np.floating[Any]], name: str) -> NDArray[np.uint8]:
    _check_finite(values, name)
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        raise ImageError(
            name,
            f"holds floats from {low:g} to {high:g}, outside [0, 1]",
            "Scale it to [0, 1], or convert it to uint8",
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _grey(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    _check_finite(values, name)
    return stretch(values)[..., None].repeat(3, axis=2)


def _over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)  # 255² + 127 fits in 16 bits


def _check_finite(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        raise ImageError(name, "holds NaN or infinite values", "Replace them before classifying")


def _check_size(pixels: int, name: str) -> None:
    if pixels > MAX_PIXELS:
        raise _too_large(name, f"{pixels} pixels")


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(
        name, f"{size} is more than the limit of {MAX_PIXELS} pixels", "Crop, tile or downsize it"
    )


def _damaged(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(name, f"is damaged, cut short or unsupported ({reason})", "Export it again")
