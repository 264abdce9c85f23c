"""The files that command-line inputs (files, folders, patterns, archives) refer to."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from operator import itemgetter
from pathlib import Path, PurePosixPath

from medfocus.engine.io.inputs.archives import dicomdir_files, zip_members
from medfocus.engine.io.inputs.walk import LEFTOVERS, Walk
from medfocus.engine.io.sniff import IMAGE_KINDS, Kind, kind_of_file
from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import unreadable

# Files whose name says that they are images are taken whatever they hold, so that a damaged one is
# an error and not a file that was skipped.
IMAGE_ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".jp2", ".j2k"),
    *(".dcm", ".dicom", ".dc3", ".ima", ".nii"),
}
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")  # a DICOM file's name, often


@dataclass(frozen=True)
class InputFile:
    """One file to read.

    Attributes:
        path: of the file, or of the zip archive that it is in.
        member: its name in that archive; None if it is a file itself.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """As results name it: `scans/a.png`, `study.zip/a/b.dcm`."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"


@dataclass
class Found:
    """What inputs refer to.

    Attributes:
        files: each once.
        skipped: other files, with their kind if it is known.
        leftovers: folders of systems and programs, which were not searched.
        again: linked folders that lead to a folder searched before.
    """

    files: list[InputFile] = field(default_factory=list)
    skipped: dict[str, Kind | None] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)


def find_files(inputs: Iterable[str], without: Sequence[Path] = ()) -> Found:
    """The files that the inputs refer to, in the order given; sorted within a folder.

    A file is taken whatever it holds, except that of a zip archive or a DICOMDIR the images in it
    are taken. Folders and patterns yield what is an image by its content or its name's ending,
    without hidden files and anything at or below `without`; archives within folders are skipped. A
    linked folder is followed once.

    Raises:
        FileError: an input that yields no file (`file.no_images`), a folder that cannot be read, an
            archive that cannot be used.
    """
    found = Found()
    taken: dict[tuple[str, str, str | None], InputFile] = {}
    real = cache(os.path.realpath)
    kept_out = {path.absolute() for path in without}
    for text in inputs:
        files = _files_of(text, Walk(kept_out), found)
        if not files:
            hint = "give a file, a folder or a pattern of images, outside of where results go"
            raise FileError(text or "an empty INPUT", "has no images", hint, code="file.no_images")
        for file in files:
            # Links to files stay distinct, and links to folders do not.
            folder, name = os.path.split(file.path)
            taken.setdefault((real(folder), name, file.member), file)
    found.files = list(taken.values())
    return found


def read_list(source: str) -> list[str]:
    """The inputs listed in a file, one per line; blank lines are ignored.

    Args:
        source: a file, or "-" for stdin.

    Raises:
        FileError: it cannot be read.
        InputError: it is empty (`input.empty`).
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise unreadable(Path(source), error) from None
    lines = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
    inputs = [line.removesuffix("\r") for line in lines if line.strip()]
    if not inputs:
        hint = "write one input per line"
        raise InputError(f"--from {source}", "lists no input", hint, code="input.empty")
    return inputs


def _files_of(text: str, walk: Walk, found: Found) -> list[InputFile]:
    path = Path(text)
    if path.is_file():
        return list(_opened(path, found))
    if text and path.is_dir():  # "" is no folder
        return list(_images_below([path], walk, found))
    matches = list(_matches(text, walk))
    files = list(_images_below([match for match in matches if match.is_dir()], walk, found))
    for match in (match for match in matches if not match.is_dir()):
        kind = kind_of_file(match)
        if _may_be_image(match, kind) or kind in ("zip", "DICOMDIR"):
            files += _opened(match, found)
        else:
            found.skipped[str(match)] = kind
    return sorted(files, key=lambda file: (file.path, file.member or ""))


def _matches(pattern: str, walk: Walk) -> Iterator[Path]:
    """The files and folders that match a pattern; below a `**` files only, each once.

    Not with `glob.glob(recursive=True)`, which follows links in circles.
    """
    if not pattern:
        return
    parts = Path(pattern).parts
    fixed = parts.index("**") if "**" in parts else len(parts)
    # Path.glob takes no absolute pattern.
    for text in glob.glob(str(Path(*parts[:fixed]))):  # noqa: PTH207
        place = Path(text)
        if fixed == len(parts):
            ignored = LEFTOVERS & {*place.parts} - {*parts}
            if not ignored and place.absolute() not in walk.without:
                yield place
            continue
        for file in walk.files(place) if place.is_dir() else ():
            below = file.relative_to(place).parts
            if any(_match(below[:end], parts[fixed:]) for end in range(1, len(below) + 1)):
                yield file


def _match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_match(names[start:], patterns[1:]) for start in range(len(names) + 1))
    first = bool(names) and fnmatchcase(names[0], patterns[0])
    return first and _match(names[1:], patterns[1:])


def _images_below(roots: Sequence[Path], walk: Walk, found: Found) -> Iterator[InputFile]:
    for path in walk.files(*roots):
        kind = kind_of_file(path)
        if _may_be_image(path, kind):
            yield InputFile(path)
        else:
            found.skipped[str(path)] = kind
    found.leftovers += walk.leftovers
    found.again += walk.again
    walk.leftovers, walk.again = [], []


def _opened(path: Path, found: Found) -> Iterator[InputFile]:
    """A file that was named: itself, or the images that it is a collection of."""
    kind = kind_of_file(path)
    if kind == "DICOMDIR":
        images, others = dicomdir_files(path)
        found.skipped |= dict.fromkeys(map(str, others))
        yield from map(InputFile, images)
    elif kind == "zip":
        for name, content in sorted(zip_members(path), key=itemgetter(0)):
            parts = PurePosixPath(name).parts
            if any(part.startswith(".") or part in LEFTOVERS for part in parts):
                continue
            if _may_be_image(Path(name), content):
                yield InputFile(path, name)
            else:
                found.skipped[f"{path}/{name}"] = content
    else:
        yield InputFile(path)


def _may_be_image(path: Path, kind: Kind | None) -> bool:
    if kind is not None:
        return kind in IMAGE_KINDS
    named_so = path.suffix.lower() in IMAGE_ENDINGS or path.name.lower().endswith(".nii.gz")
    return named_so or _UID.fullmatch(path.name) is not None
