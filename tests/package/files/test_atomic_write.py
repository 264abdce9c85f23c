"""A file is written whole or not at all, and reaches the disk before it gets its name."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from medfocus.errors import FileError
from medfocus.files.atomic_write import atomic_write, atomic_write_all
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


def test_new_folders_are_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    atomic_write(tmp_path / "a" / "b" / "file", "")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    for content in ("first", "second"):
        atomic_write(tmp_path / "link", content)
        assert (tmp_path / "real" / "file").read_text() == content
    assert (tmp_path / "link").is_symlink()
    assert [each.name for each in (tmp_path / "real").iterdir()] == ["file"]
    (tmp_path / "loop").symlink_to("loop")
    with refuses(FileError, "file.unwritable", "loop"):
        atomic_write(tmp_path / "loop", "")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """And no reader who may not see it can see what is being written."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    modes = []

    def noting(call: Callable[..., None], descriptor: int, *more: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        call(descriptor, *more)

    for name in ("fchmod", "fsync"):
        monkeypatch.setattr(os, name, partial(noting, getattr(os, name)))
    atomic_write(path, "content")
    assert modes[:2] == [0o600, mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(reader, "rb") as stream, (tmp_path / "open").open("w+b") as other:
        atomic_write(tmp_path / "pipe", "through")
        assert stream.read() == b"through"
        other.write(b"before ")
        other.flush()
        atomic_write(Path(f"/dev/fd/{other.fileno()}"), "after")
    assert (tmp_path / "open").read_text() == "before after"
    assert {each.name for each in tmp_path.iterdir()} == {"pipe", "open"}
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_files_that_belong_together_are_all_new_or_all_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Every call to the system fails once; only between two renames can the last stay behind."""
    first, last = tmp_path / "first", tmp_path / "last"
    failing, calls, real = 0, 0, getattr(os, call)

    def counted(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, counted)
    seen = set()
    for number in range(1, 9):
        first.write_text("old")
        last.write_text("old")
        calls, failing = 0, number
        with suppress(FileError):
            atomic_write_all({first: "new", last: "new"})
        seen.add((first.read_text(), last.read_text()))
        assert {each.name for each in tmp_path.iterdir()} == {"first", "last"}
    allowed = {("old", "old"), ("new", "new")} | ({("new", "old")} if call == "replace" else set())
    assert seen <= allowed
    assert ("old", "old") in seen


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refuses(FileError, "file.unwritable"):
        atomic_write(tmp_path / "file" / "below", "")
