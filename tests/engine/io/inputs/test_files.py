"""What inputs refer to: by content, through links, and what is left out and said."""

import io
import os
import shutil
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from medfocus.engine.io.inputs.files import find_files, read_list
from medfocus.errors import FileError
from tests.errors import refuses

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def png(name: str | Path) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(name, "PNG")
    return Path(name)


def jpeg(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(name, "JPEG")


def dicom(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SHIPPED / "CT_small.dcm", name)


def text(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("a text")


def names(*inputs: str) -> list[str]:
    return [file.name for file in find_files(inputs).files]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_are_known_by_their_content() -> None:
    for name in ("d/a.IMA", "d/b/IM0001", "d/c.dc3", "d/1.2.840.55", "d/e.txt"):
        dicom(name)
    for name in ("d/x.png", "d/y", "d/z.dat"):
        png(name)
    for name in ("d/p.jfif", "d/q.jpe"):
        jpeg(name)
    for name in ("d/README", "d/notes.txt", "d/t.csv", "d/v.xml", "d/b/noise.raw"):
        text(name)
    shutil.copy(SHIPPED / "dicomdirtests" / "DICOMDIR", "d/DICOMDIR")
    found = find_files(["d"])
    assert [file.name for file in found.files] == [
        *("d/1.2.840.55", "d/a.IMA", "d/b/IM0001", "d/c.dc3", "d/e.txt"),
        *("d/p.jfif", "d/q.jpe", "d/x.png", "d/y", "d/z.dat"),
    ]
    assert found.skipped == {
        "d/DICOMDIR": "DICOMDIR",
        **dict.fromkeys(["d/README", "d/b/noise.raw", "d/notes.txt", "d/t.csv", "d/v.xml"]),
    }


def test_a_headless_dicom_file_named_by_a_uid() -> None:
    whole = (SHIPPED / "MR_small.dcm").read_bytes()
    meta = int.from_bytes(whole[140:144], "little")  # (0002,0000), PS3.10 7.1
    Path("d").mkdir()
    Path("d/1.3.6.1.4.1.5962.1.1").write_bytes(whole[144 + meta :])
    Path("d/headless").write_bytes(whole[144 + meta :])
    assert names("d") == ["d/1.3.6.1.4.1.5962.1.1", "d/headless"]


def test_a_damaged_file_with_an_image_s_name_is_taken() -> None:
    """So that it is an error with that name, not a file that was skipped."""
    for name in ("d/a.png", "d/b.DCM", "d/1.2.3.4.5"):
        text(name)
    Path("d/gone.tif").symlink_to("absent")
    os.mkfifo("d/pipe")
    found = find_files(["d"])
    assert [file.name for file in found.files] == [
        "d/1.2.3.4.5",
        "d/a.png",
        "d/b.DCM",
        "d/gone.tif",
    ]
    assert list(found.skipped) == ["d/pipe"]


def test_folders_files_and_patterns() -> None:
    wanted = ["a/1.png", "a/2.JPG", "a/b/IM0001", "a/b/c.dcm", "a/d/1.2.840.55", "a/z.tiff"]
    for name in wanted:
        png(name)
    for name in ("a/.hidden.png", "a/.git/x.png"):
        png(name)
    text("a/b/notes.txt")
    assert names("a") == names("a/*") == names("a/**") == names("*") == wanted
    assert names("a/*.png", "a/**/*.dcm") == ["a/1.png", "a/b/c.dcm"]
    assert names("a/**/b") == names("**/b/*") == ["a/b/IM0001", "a/b/c.dcm"]
    assert names(str(Path("a/*.png").absolute())) == [f"{Path.cwd()}/a/1.png"]
    # What is named is taken; what is named twice is taken once.
    assert names("a/.hidden.png", "a/b/notes.txt") == ["a/.hidden.png", "a/b/notes.txt"]
    assert names("a/z.tiff", "a", "./a", str(Path("a").absolute())) == ["a/z.tiff", *wanted[:-1]]
    png("a[1].png")
    assert names("a[1].png") == ["a[1].png"]


@pytest.mark.parametrize("given", ["absent.png", "empty", "*.jpg", "", "empty/**"])
def test_an_input_that_gives_nothing_is_an_error(given: str) -> None:
    png("images/1.png")
    text("empty/notes.txt")
    with refuses(FileError, "file.no_images", given):
        find_files(["images", given])


def test_a_linked_folder_is_followed_once() -> None:
    png("other/o.png")
    for name in ("d/m/1.png", "d/n/2.png"):
        png(name)
    Path("d/0-out").symlink_to(Path("other").absolute())
    Path("d/1-copy").symlink_to("m")  # before m in the order of names
    Path("d/n/loop").symlink_to("..")
    Path("d/n/self").symlink_to("self")
    Path("d/m/z.png").symlink_to("1.png")  # a link to a file is a file
    found = find_files(["d"])
    wanted = ["d/0-out/o.png", "d/m/1.png", "d/m/z.png", "d/n/2.png"]
    assert [file.name for file in found.files] == wanted
    assert sorted(map(str, found.again)) == ["d/1-copy", "d/n/loop"]
    assert names("d/**") == names("d/*") == names("d", "d/1-copy") == wanted
    assert names("d/1-copy", "d/m") == ["d/1-copy/1.png", "d/1-copy/z.png"]


def test_links_in_circles_do_not_multiply() -> None:
    png("d/1.png")
    for number in range(12):  # glob alone would visit 12 to the power of 40 folders
        Path(f"d/loop{number}").symlink_to(".")
    assert names("d/**") == names("d/**/*.png") == names("d") == ["d/1.png"]


def test_folders_of_other_programs_are_left_out_and_named() -> None:
    png("d/1.png")
    others = ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints")
    for name in others:
        png(f"d/s/{name}/2.png")
    found = find_files(["d"])
    assert [file.name for file in found.files] == names("d/**") == names("d/*") == ["d/1.png"]
    assert sorted(map(str, found.leftovers)) == sorted(f"d/s/{name}" for name in others)
    assert names("d/s/__MACOSX") == names("d/s/__MACOSX/*") == ["d/s/__MACOSX/2.png"]


def test_own_results_are_no_inputs() -> None:
    for name in ("d/1.png", "d/out/2.png", "d/s.png"):
        png(name)
    without = [Path("d/out"), Path("d/s.png").absolute()]
    for given in ("d", "d/*", "d/**"):
        found = find_files([given], without)
        assert [file.name for file in found.files] == ["d/1.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_searched_is_an_error() -> None:
    png("d/s/1.png")
    Path("d/s").chmod(0)
    try:
        with refuses(FileError, "file.unreadable", "d/s"):
            find_files(["d"])
    finally:
        Path("d/s").chmod(0o700)


def test_inputs_from_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["a b.png", os.fsdecode(b"\xff.png"), " c", "d/*.png"]
    data = b"\xef\xbb\xbf" + "\r\n".join(["", *wanted, "  "]).encode(errors="surrogateescape")
    Path("list").write_bytes(data)
    assert read_list("list") == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data[3:])))
    assert read_list("-") == wanted
    with refuses(FileError, "file.missing", "absent"):
        read_list("absent")
