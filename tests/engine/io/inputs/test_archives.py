"""Zip archives and DICOMDIRs as inputs: what is in them, and that none leads elsewhere."""

import io
import shutil
import struct
import zipfile
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.fileset import FileSet

from medfocus.engine.io.inputs import archives
from medfocus.engine.io.inputs.files import InputFile, find_files
from medfocus.engine.io.inputs.staging import staging
from medfocus.errors import FileError, ImageError
from tests.engine.io.read import read_images
from tests.errors import refuses

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"


def png_bytes(value: int = 7) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def members(path: Path) -> list[str]:
    return [file.name.removeprefix(str(path)) for file in find_files([str(path)]).files]


def test_the_images_of_a_zip_archive(tmp_path: Path) -> None:
    dicom = (SHIPPED / "77654033" / "CR1" / "6154").read_bytes()
    path = zipped(
        tmp_path / "study.zip",
        {
            "b/2": dicom,
            "a/1.png": png_bytes(),
            "a/damaged.png": b"text",
            "a/notes.txt": b"text",
            "a/inner.zip": b"PK\x03\x04",
            "__MACOSX/a/._1.png": png_bytes(),
            ".hidden/1.png": png_bytes(),
            "empty/": b"",
        },
    )
    found = find_files([str(path)])
    assert members(path) == ["/a/1.png", "/a/damaged.png", "/b/2"]
    skipped = {name.removeprefix(str(path)): kind for name, kind in found.skipped.items()}
    assert skipped == {"/a/notes.txt": None, "/a/inner.zip": "zip"}
    # One in a folder is not opened: an office document is one too.
    (tmp_path / "1.png").write_bytes(png_bytes())
    inside = find_files([str(tmp_path)])
    assert [file.name for file in inside.files] == [str(tmp_path / "1.png")]
    assert inside.skipped == {str(path): "zip"}
    assert len(find_files([f"{tmp_path}/*.zip"]).files) == 3


def test_a_member_is_read_from_a_private_copy_that_is_removed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x.png": png_bytes(9), "y/x.png": png_bytes(8)})
    (tmp_path / "plain.png").write_bytes(png_bytes())
    with staging() as staged:
        copies = [staged(InputFile(path, name)) for name in ("x.png", "y/x.png")]
        assert [copy.read_bytes() for copy in copies] == [png_bytes(9), png_bytes(8)]
        assert {copy.suffix for copy in copies} == {".png"}
        assert copies[0].parent.stat().st_mode & 0o077 == 0
        assert staged(InputFile(tmp_path / "plain.png")) == tmp_path / "plain.png"
    assert not copies[0].parent.exists()
    assert {each.name for each in tmp_path.iterdir()} == {"a.zip", "plain.png"}


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/x.png", "..\\x.png", "C:\\x.png", "a\\..\\..\\x.png"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", {"good.png": png_bytes(), name: png_bytes()})
    with refuses(FileError, "file.invalid_archive", str(path)):
        find_files([str(path)])


def changed(path: Path, signature: bytes, offset: int, layout: str, value: int) -> None:
    """Overwrite a field of every header with this signature (APPNOTE.TXT 4.3.7, 4.3.12)."""
    data = bytearray(path.read_bytes())
    place = data.find(signature)
    while place >= 0:
        struct.pack_into(layout, data, place + offset, value)
        place = data.find(signature, place + 1)
    path.write_bytes(data)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x.png": png_bytes()})
    changed(path, b"PK\x03\x04", 6, "<H", 1)  # the general purpose flag
    changed(path, b"PK\x01\x02", 8, "<H", 1)
    with refuses(FileError, "file.invalid_archive", str(path)) as caught:
        find_files([str(path)])
    assert "encrypted" in caught.value.problem


@pytest.mark.parametrize("cut", [10, 100, -30])
def test_a_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = zipped(tmp_path / "a.zip", {"x.png": png_bytes(), "y.png": png_bytes()})
    path.write_bytes(path.read_bytes()[:cut])
    with refuses(FileError, "file.invalid_archive", str(path)):
        find_files([str(path)])


def test_a_member_may_not_inflate_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 1000)
    path = zipped(tmp_path / "a.zip", {"x.png": png_bytes() + bytes(5000)})
    with staging() as staged, refuses(ImageError, "image.too_large", f"{path}/x.png"):
        staged(InputFile(path, "x.png"))
    # A size that is a lie: no more is inflated than it says, and the checksum then fails.
    changed(path, b"PK\x01\x02", 24, "<I", 900)
    with staging() as staged, refuses(ImageError, "image.damaged", f"{path}/x.png"):
        staged(InputFile(path, "x.png"))


def test_a_damaged_member_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x.png": png_bytes(), "y.png": png_bytes(1)})
    changed(path, b"PK\x01\x02", 16, "<I", 1234)  # the checksum
    assert members(path) == ["/x.png", "/y.png"]
    with staging() as staged, refuses(ImageError, "image.damaged", f"{path}/y.png"):
        staged(InputFile(path, "y.png"))
    other = zipped(tmp_path / "b.zip", {"x.png": png_bytes()}, zipfile.ZIP_LZMA)
    assert members(other) == ["/x.png"]
    with staging() as staged, refuses(ImageError, "image.damaged", f"{other}/x.png"):
        staged(InputFile(other, "x.png"))


def test_the_images_of_a_dicomdir(tmp_path: Path) -> None:
    """pydicom's own list of the medium is the reference."""
    medium = tmp_path / "medium"
    shutil.copytree(SHIPPED, medium)
    found = find_files([str(medium / "DICOMDIR")])
    listed = {Path(each.path) for each in FileSet(medium / "DICOMDIR")}
    assert {file.path for file in found.files} == listed
    assert len(listed) == 31
    (_, *_) = read_images(found.files[0].path)


def index(path: Path, parts: list[str], **more: object) -> Path:
    """A DICOMDIR of one image record."""
    whole = pydicom.dcmread(SHIPPED / "DICOMDIR")
    record = next(r for r in whole.DirectoryRecordSequence if r.DirectoryRecordType == "IMAGE")
    record.ReferencedFileID = parts
    for keyword, value in more.items():
        setattr(record, keyword, value)
    whole.DirectoryRecordSequence = [record]
    path.parent.mkdir()
    whole.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "parts", [["..", "SECRET"], ["/etc/passwd"], ["A", "..", "..", "SECRET"], ["LINK"]]
)
def test_a_dicomdir_names_nothing_outside_its_folder(tmp_path: Path, parts: list[str]) -> None:
    (tmp_path / "SECRET").write_bytes(png_bytes())
    path = index(tmp_path / "medium" / "DICOMDIR", parts)
    (path.parent / "LINK").symlink_to("../SECRET")
    with refuses(FileError, "file.invalid_archive", str(path)):
        find_files([str(path)])


def test_records_that_are_no_images_are_skipped(tmp_path: Path) -> None:
    path = index(tmp_path / "medium" / "DICOMDIR", ["SR", "1"], DirectoryRecordType="SR DOCUMENT")
    (path.parent / "1.png").write_bytes(png_bytes())
    found = find_files([str(path), str(path.parent)][1:])
    assert [file.path.name for file in found.files] == ["1.png"]
    with refuses(FileError, "file.no_images", str(path)):
        find_files([str(path)])
    inactive = index(tmp_path / "other" / "DICOMDIR", ["IM1"], RecordInUseFlag=0)
    with refuses(FileError, "file.no_images", str(inactive)):
        find_files([str(inactive)])


def test_a_damaged_dicomdir_is_refused(tmp_path: Path) -> None:
    data = (SHIPPED / "DICOMDIR").read_bytes()
    path = tmp_path / "DICOMDIR"
    for length in (300, 400, 1000, len(data) - 1):
        path.write_bytes(data[:length])
        with refuses(FileError, "file.invalid_archive", str(path)):
            find_files([str(path)])
    shutil.copy(SHIPPED / "DICOMDIR-implicit", path)
    with refuses(FileError, "file.invalid_archive", str(path)):
        find_files([str(path)])
