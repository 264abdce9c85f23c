"""Collections of images in one file: zip archives, and DICOMDIR, the index of a DICOM medium.

A member's name never becomes a path on the disk, so that no archive can write outside the folder
that it is given.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from medfocus.engine.io.dicom import silence_pydicom
from medfocus.engine.io.sniff import HEAD_BYTES, Kind, kind_of
from medfocus.errors import FileError, ImageError
from medfocus.files.file_errors import unreadable, unwritable

MEMBER_LIMIT = 2**30  # bytes of one inflated member; no image of permitted size needs more
MEMBERS_LIMIT = 10**6
INDEX_LIMIT = 2**28  # bytes of a DICOMDIR: half a million images

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # APPNOTE.TXT 4.4.4, general purpose bit 0
# What zipfile raises on damaged archives.
_ZIP_ERRORS = (
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive for reading.

    Raises:
        FileError: it cannot be read, or is damaged (`file.invalid_archive`).
    """
    try:
        archive = zipfile.ZipFile(path)
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from None
    except _ZIP_ERRORS:
        raise _refused(path, "is damaged, or is no zip archive", "zip it again") from None
    with archive:
        yield archive


def zip_members(path: Path) -> list[tuple[str, Kind | None]]:
    """The names of a zip archive's files, and what kind each is by its content.

    Nothing is inflated but the beginning of each file.

    Raises:
        FileError: it cannot be read or is damaged, encrypted or too large, or a member's name
            leads out of the archive (`file.invalid_archive`).
    """
    with open_archive(path) as archive:
        members = [each for each in archive.infolist() if not each.filename.endswith("/")]
        if len(members) > MEMBERS_LIMIT:
            raise _refused(path, f"holds more than {MEMBERS_LIMIT} files", "split it")
        for member in members:
            if member.flag_bits & _ENCRYPTED:
                raise _refused(path, "is encrypted", "decrypt it, or unpack it yourself")
            if _leads_out(member.filename):
                problem = "holds a name that leads out of the archive"
                raise _refused(path, problem, "do not trust it; unpack it yourself")
        return [(member.filename, _kind_of_member(archive, member)) for member in members]


def inflate_member(archive: zipfile.ZipFile, name: str, target: Path, item: str) -> None:
    """Write one file of a zip archive to `target`.

    Args:
        archive: from `open_archive`.
        name: from `zip_members`.
        target: a path in a private folder.
        item: what errors name.

    Raises:
        ImageError: the member is damaged (`image.damaged`) or larger than `MEMBER_LIMIT`
            (`image.too_large`).
        FileError: `target` cannot be written.
    """
    try:
        with target.open("wb") as stream:
            for chunk in _chunks(archive, name, item):
                stream.write(chunk)
    except OSError as error:
        raise unwritable(target, error) from None


def _chunks(archive: zipfile.ZipFile, name: str, item: str) -> Iterator[bytes]:
    try:
        member = archive.getinfo(name)
        # zipfile inflates no more than the size that the archive's directory gives.
        if member.file_size > MEMBER_LIMIT:
            problem = f"inflates to more than {MEMBER_LIMIT} bytes"
            raise ImageError(item, problem, "unpack it", code="image.too_large")
        if member.compress_type not in _METHODS:
            raise zipfile.BadZipFile
        with archive.open(member) as source:
            while chunk := source.read(2**20):
                yield chunk
    except _ZIP_ERRORS:
        problem = "is damaged in its archive, or compressed in another way than by deflate"
        raise ImageError(item, problem, "zip it again", code="image.damaged") from None


def dicomdir_files(path: Path) -> tuple[list[Path], list[Path]]:
    """The files that a DICOMDIR lists: images, and other objects such as reports.

    Records are read one by one from its sequence (PS3.3 F.3.2.2), and no listed file is opened.

    Raises:
        FileError: it is damaged or too large, or names a file outside its folder
            (`file.invalid_archive`).
    """
    folder = path.parent
    images: list[Path] = []
    others: list[Path] = []
    for parts, is_image in _records(path):
        file = folder.joinpath(*parts)
        small = folder.joinpath(*map(str.lower, parts))  # as Linux shows the names on a CD
        file = small if small.exists() and not file.exists() else file
        # A file ID is at most 8 names of capitals, digits and underscores (PS3.10 8.2).
        plain = all(
            part and part not in (".", "..") and not set(part) & set("/\\\0") for part in parts
        )
        if not plain or not file.resolve().is_relative_to(folder.resolve()):
            problem, hint = "names a file outside its folder", "do not trust it; name the files"
            raise _refused(path, problem, hint)
        (images if is_image else others).append(file)
    return images, others


def _records(path: Path) -> Iterator[tuple[list[str], bool]]:
    """The file ID of each record in use that has one, and whether it is an image's."""
    silence_pydicom()
    try:
        if path.stat().st_size > INDEX_LIMIT:
            raise _refused(path, f"is larger than {INDEX_LIMIT} bytes", "name the files instead")
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax != ExplicitVRLittleEndian:  # PS3.10 8.6; others could inflate
            problem = "is not in Explicit VR Little Endian, as a DICOMDIR must be"
            raise _refused(path, problem, "name the files instead")
        index = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
        stored = index.get_item("DirectoryRecordSequence")
        # pydicom takes a sequence that ends too early for one of fewer records.
        cut = isinstance(stored, RawDataElement) and len(stored.value or b"") != stored.length
        if stored is None or cut:
            raise EOFError
        for record in index.DirectoryRecordSequence:
            named = record.get("ReferencedFileID")
            if named and record.get("RecordInUseFlag", 0xFFFF) != 0:
                parts = [named] if isinstance(named, str) else [str(part) for part in named]
                yield parts, record.get("DirectoryRecordType") == "IMAGE"
    except Exception:
        # Of any class, as a parser raises them; not chained, since pydicom's messages quote values.
        problem = "is damaged, or is no DICOMDIR"
        raise _refused(path, problem, "name the files instead") from None


def _kind_of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Kind | None:
    unix = member.external_attr >> 16
    if unix and not (stat.S_ISREG(unix) or stat.S_IFMT(unix) == 0):  # a link
        return None
    if member.compress_type not in _METHODS:  # others inflate without a useful bound
        return None
    try:
        with archive.open(member) as stream:
            return kind_of(stream.read(HEAD_BYTES))
    except _ZIP_ERRORS:
        return None


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    inside = bool(path.parts) and ".." not in path.parts and not path.parts[0].endswith(":")
    return path.is_absolute() or not inside


def _refused(path: Path, problem: str, hint: str) -> FileError:
    return FileError(str(path), problem, hint, code="file.invalid_archive")
