"""Image files of every format: recognised by their content, decoded one image at a time."""

import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from PIL import UnidentifiedImageError

from medfocus.engine.io.dicom import DicomFile
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.pictures import FORMATS, PictureFile
from medfocus.engine.io.sniff import HEAD_BYTES, Kind, kind_of
from medfocus.engine.io.volumes.dicom_parts import dicom_parts
from medfocus.engine.io.volumes.parts import WHOLE, Part
from medfocus.errors import ImageError

_SUPPORTED = f"give a file in one of {', '.join(FORMATS)}, DICOM or NIfTI"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ImageFile(Protocol):
    """An open file of one or more images, which are decoded one at a time."""

    @property
    def frames(self) -> int:
        """How many images it holds; one more if some that it announces are missing.

        Known for sure only once the last was decoded.
        """

    @property
    def decoding_bytes(self) -> int:
        """Memory that decoding one image takes at its peak, in bytes."""

    def frame(self, index: int) -> Frame:
        """Decode one image.

        Raises:
            ImageError: damaged, truncated or unsupported data.
        """


def open_path(path: Path, name: str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        ImageError: it is missing, may not be read, or is no regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            problem, hint = "is not a regular file", "give the path of one image file"
            raise ImageError(name, problem, hint, code="image.not_an_image")
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError(name, "does not exist", "check the path", code="image.not_found") from None
    except PermissionError:
        problem, hint = "may not be read by this user", "change the file's permissions"
        raise ImageError(name, problem, hint, code="image.not_permitted") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ImageError(name, f"cannot be opened ({reason})", "check the path") from None


def open_image_file(file: BinaryIO, name: str, max_pixels: int) -> ImageFile:
    """Recognise a file by its content, and read its header.

    PNG, JPEG, TIFF (one image per page), WebP, BMP, DICOM (one image per frame) and NIfTI (one per
    slice). EXIF orientation is applied, and alpha is composited over black. Pictures of more than 8
    bits have no fixed scale and are min-max normalised, with a warning.

    Args:
        file: open at its start; has to stay open while images are decoded.
        name: of the file, in errors; its suffix counts only where the content is ambiguous.
        max_pixels: limit on one image.

    Raises:
        ImageError: no image, or a damaged one.
    """
    kind = _recognised(file, name)
    if kind == "DICOM":
        return DicomFile(file, name, max_pixels)
    if kind == "NIfTI":
        # Not at the top: most runs meet none, and importing nibabel takes a third of a second.
        from medfocus.engine.io.volumes.nifti import NiftiFile

        return NiftiFile(file, name, max_pixels)
    try:
        return PictureFile(file, name, max_pixels)
    except UnidentifiedImageError:
        problem = "is not in a supported image format, whatever its suffix"
        raise ImageError(name, problem, _SUPPORTED, code="image.not_an_image") from None


def check_by_name(file: BinaryIO, name: str, max_pixels: int) -> None:
    """Raise what `open_image_file` does about a file of which only its name tells what it is not.

    For whoever passes the content on without the name.

    Args:
        file: open at its start, and left there.
        name: of the file.
        max_pixels: limit on one image.

    Raises:
        ImageError: no image.
    """
    if _recognised(file, name) is None:
        open_image_file(file, name, max_pixels)
        file.seek(0)


def image_file_parts(file: BinaryIO, name: str, max_pixels: int) -> list[Part]:
    """What a file says of its images' place in a series: one part or several, in their order.

    Args:
        file: open at its start.
        name: of the file, in errors.
        max_pixels: limit on one image.

    Raises:
        ImageError: no image, or a damaged one; pixels and pictures are not looked at.
    """
    kind = _recognised(file, name)
    if kind == "DICOM":
        return dicom_parts(file, name, max_pixels)
    if kind == "NIfTI":
        from medfocus.engine.io.volumes.nifti import NiftiFile

        return NiftiFile(file, name, max_pixels).parts()
    return [WHOLE]


def _recognised(file: BinaryIO, name: str) -> Kind | None:
    """The kind of a file that stands at its start, and is left there.

    Raises:
        ImageError: it is empty, or a pointer to another file.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise ImageError(name, "is empty", "copy the file again", code="image.empty")
    if head.startswith(_LFS_POINTER):
        problem = "is a Git LFS pointer, not the image"
        raise ImageError(name, problem, "git lfs pull", code="image.lfs_pointer")
    kind = kind_of(head)
    # What is of no known kind may be DICOM that is damaged at its start, if its name says so.
    return "DICOM" if kind is None and _named_as_dicom(name) else kind


def _named_as_dicom(name: str) -> bool:
    suffix = Path(name).suffix.lower()  # often there is none, or the name is a UID
    return suffix in ("", ".dcm", ".dicom") or suffix[1:].isdigit()


def frame_name(name: str, index: int, frames: int) -> str:
    """What one image of a file is called: the file, with "#index" if it holds several."""
    return name if frames == 1 else f"{name}#{index}"
