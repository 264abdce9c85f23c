"""The files that command-line inputs (files, folders, patterns) refer to."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from medfocus.errors import FileError

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom"}


def find_files(inputs: Sequence[str], skip: Sequence[Path] = ()) -> list[Path]:
    """The files that the inputs refer to, each once, in the order given; sorted within a folder.

    A file is taken whatever its name. Folders and patterns yield files that may be images, without
    hidden files and anything at or below `skip`.

    Raises:
        FileError: an input that yields no file.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_file():
            files = [path]
        else:
            matches = glob.glob(text, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
            roots = [path] if text and path.is_dir() else map(Path, matches)  # "" is no folder
            files = sorted({file for root in roots for file in _images_below(root, skip)})
        if not files:
            hint = "give a file, a folder or a pattern of images, outside of where results go"
            raise FileError(text or "an empty INPUT", "has no images", hint, code="file.no_images")
        for file in files:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (links stay distinct)
    return list(found.values())


def _images_below(root: Path, skip: Sequence[Path]) -> Iterator[Path]:
    for path in [root] if root.is_file() else root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        own = any(path.absolute().is_relative_to(other.absolute()) for other in skip)
        if not hidden and not own and _may_be_image(path) and path.is_file():
            yield path


def _may_be_image(path: Path) -> bool:
    # DICOM files often have no suffix, or are named by a UID, whose last number looks like one.
    # DICOMDIR is the index of a DICOM medium and not an image.
    ending = path.suffix.lower()
    bare = (not ending or ending[1:].isdigit()) and path.name != "DICOMDIR"
    return bare or ending in IMAGE_ENDINGS
