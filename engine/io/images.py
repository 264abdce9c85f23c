"""Reading one source (a file, an array, a tensor, a pillow image) into RGB images."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medfocus.engine.io import dicom, pictures
from medfocus.engine.io.arrays import TensorLike, channels_last, check_size, rgb
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import Notice
from medfocus.errors import ImageError

# Limit on one source, all its pages or frames together, checked before decoding. Enough for an
# enhanced CT of 512 slices of 512 × 512, and below the limit of pillow itself.
MAX_PIXELS = 2**27

_SUPPORTED = f"give a file in one of {', '.join(pictures.FORMATS)} or DICOM"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

ImageSource = str | Path | NDArray[Any] | Image.Image | TensorLike


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


def read_images(source: ImageSource, name: str | None = None) -> list[SourceImage]:
    """Read every image of one source.

    Files: PNG, JPEG, TIFF (one image per page), WebP, BMP and DICOM (one image per frame). EXIF
    orientation is applied, and alpha is composited over black. What has more than 8 bits has no
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
        name = name or "pillow image"
        return [_image(pictures.from_pillow(source, name, MAX_PIXELS), name)]
    if isinstance(source, np.ndarray):
        name = name or "array"
        return [_image(rgb(source, name, MAX_PIXELS), name)]
    if isinstance(source, TensorLike):
        name = name or "tensor"
        return [_image(rgb(channels_last(source, name), name, MAX_PIXELS), name)]
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
    return _named(dicom.read_frames(path, name, MAX_PIXELS), name)


def _read_picture(path: Path, name: str) -> list[SourceImage]:
    with path.open("rb") as file:
        found = pictures.pages(file, name, MAX_PIXELS)
        check_size(sum(page.height * page.width for page in found), name, MAX_PIXELS)
        return _named([page.read() for page in found], name)


def _named(frames: list[Frame], name: str) -> list[SourceImage]:
    if len(frames) == 1:
        return [_image(frames[0], name)]
    return [_image(frame, f"{name}#{index}") for index, frame in enumerate(frames)]


def _image(frame: Frame, name: str) -> SourceImage:
    return SourceImage(frame.pixels, name, frame.warnings, frame.pixel_aspect)
