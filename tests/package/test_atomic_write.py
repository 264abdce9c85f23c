"""A file is written whole or not at all, and reaches the disk before it gets its name."""

import errno
import os
import stat
from pathlib import Path

import pytest

from medfocus.atomic_write import atomic_write
from medfocus.errors import FileError
from tests.errors import refuses


@pytest.mark.parametrize(
    ("content", "written"), [("Lunge £", "Lunge £".encode()), (b"\0\xff", b"\0\xff")]
)
def test_it_replaces_a_file_and_creates_folders(
    tmp_path: Path, content: str | bytes, written: bytes
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        atomic_write(path, content)
        assert path.read_bytes() == written
        assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_its_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "written", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")]
    assert modes[0] == modes[1]


def test_file_and_folder_are_flushed_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append(("fsync", "folder" if folder else os.fstat(descriptor).st_size))
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    atomic_write(tmp_path / "file", "12345")
    assert events == [("fsync", 5), ("rename", "file"), ("fsync", "folder")]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "file"
    atomic_write(path, "before")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with refuses(FileError, "file.unwritable", str(path)) as caught:
        atomic_write(path, "after")
    assert os.strerror(errno.ENOSPC) in caught.value.problem
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_a_folder_that_cannot_be_flushed_is_accepted_only_where_that_is_not_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, number = os.fsync, errno.EINVAL

    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    atomic_write(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
    number = errno.EIO
    with refuses(FileError, "file.unwritable"):
        atomic_write(tmp_path / "file", "whole")


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refuses(FileError, "file.unwritable"):
        atomic_write(tmp_path / "file" / "below", "")
