"""Writing an engine directory: whole or not at all, whatever stops the writer."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import Producer
from medfocus.engine.artifact.writing import write_engine_directory, write_manifest
from medfocus.errors import EngineDirectoryError
from tests.engine.artifact.directories import FILES, names, version, write
from tests.engine.artifact.test_manifest import MANIFEST
from tests.errors import refuses


@pytest.fixture
def target(tmp_path: Path) -> Path:
    write(tmp_path / "engine")
    return tmp_path / "engine"


def test_an_existing_target_is_kept(target: Path, tmp_path: Path) -> None:
    with refuses(EngineDirectoryError, "engine.exists", "engine"):
        write(target, "new")
    assert version(target) == "old"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    with refuses(EngineDirectoryError, "engine.not_replaceable", "photos"):
        write(tmp_path / "photos", force=True)
    assert names(tmp_path / "photos") == {"one.jpg"}


def test_force_replaces_the_whole_directory(target: Path) -> None:
    (target / "notes.txt").touch()
    write(target, "new", force=True)
    assert version(target) == "new"
    assert not (target / "notes.txt").exists()
    assert names(target.parent) == {"engine"}


def test_a_link_is_replaced_at_its_end(target: Path) -> None:
    link = target.parent / "current"
    link.symlink_to("engine")
    write(link, "new", force=True)
    assert link.is_symlink()
    assert version(target) == "new"


class Killed(BaseException):
    """Not an Exception: as a Ctrl-C."""


def write_and_then(target: Path, act: Callable[[Path], object]) -> None:
    with write_engine_directory(target) as staging:
        (staging / "file").touch()
        write_manifest(staging, MANIFEST)
        act(staging)


def fail_with(error: type[BaseException]) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_an_error_in_the_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_and_then(tmp_path / "engine", lambda staging: fail_with(error))
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("act", "code", "item"),
    [
        (
            lambda staging: (staging / "manifest.json").unlink(),
            "engine.missing_file",
            "manifest.json",
        ),
        (lambda staging: (staging / "late").touch(), "engine.file_not_listed", "late"),
        (lambda staging: (staging / "file").write_text("x"), "engine.changed", "file"),
    ],
)
def test_a_directory_that_could_not_be_read_is_not_published(
    tmp_path: Path, act: Callable[[Path], object], code: str, item: str
) -> None:
    with refuses(EngineDirectoryError, code, item):
        write_and_then(tmp_path / "engine", act)
    assert names(tmp_path) == set()


def test_a_second_writer_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with write_engine_directory(tmp_path / "engine") as staging:
        with refuses(EngineDirectoryError, "engine.locked", "engine"):
            write(tmp_path / "engine", "second")
        write_manifest(staging, replace(MANIFEST, producer=Producer("medfocus", "first")))
    assert version(tmp_path / "engine") == "first"


# --- the writer stops at any step

STEPS = ("mkdir", "open", "fsync", "rename", "rmdir", "unlink")


def failing_at(monkeypatch: pytest.MonkeyPatch, step: int, fail: Callable[[], None]) -> list[int]:
    """Make the `step`-th call that changes the disk fail; returns the count of such calls."""
    count = [0]

    def guard(call: Callable[..., object]) -> Callable[..., object]:
        def guarded(*arguments: object, **options: object) -> object:
            if count[0] == step:
                count[0] += 1
                fail()
            count[0] += 1
            return call(*arguments, **options)

        return guarded

    for name in STEPS:
        monkeypatch.setattr(os, name, guard(getattr(os, name)))
    return count


def raise_os_error() -> None:
    raise OSError(28, "No space left on device")


def raise_killed() -> None:
    raise Killed


def count_steps(target: Path, force: bool) -> int:
    with pytest.MonkeyPatch.context() as patch:
        count = failing_at(patch, -1, raise_killed)
        write(target, "new", force)
    return count[0]


@pytest.mark.parametrize("fail", [raise_os_error, raise_killed])
@pytest.mark.parametrize("replaces", [False, True])
def test_an_error_at_any_step_leaves_old_or_new_whole(
    tmp_path: Path, fail: Callable[[], None], replaces: bool
) -> None:
    if replaces:
        write(tmp_path / "rehearsal")
    steps = count_steps(tmp_path / "rehearsal", replaces)
    assert steps > 12
    for step in range(steps):
        target = tmp_path / str(step) / "engine"
        target.parent.mkdir()
        if replaces:
            write(target)
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, step, fail)
            try:
                write(target, "new", replaces)
                failed = False
            except (EngineDirectoryError, OSError, Killed):
                failed = True
        if not failed:  # creating the parent folder, which exists already, may fail
            assert (step, version(target)) == (0, "new")
        elif replaces or target.exists():
            assert version(target) in ("old", "new")
        write(target, "later", force=True)
        assert version(target) == "later"
        assert names(target.parent) == {"engine"}


def killed_at(target: Path, step: int, replaces: bool) -> None:
    failing_at(pytest.MonkeyPatch(), step, lambda: os._exit(9))
    write(target, "new", replaces)


@pytest.mark.parametrize("replaces", [False, True])
def test_the_next_writer_recovers_from_a_kill_at_any_step(tmp_path: Path, replaces: bool) -> None:
    """The process ends at once, without running any handler, as after SIGKILL or a power cut."""
    if replaces:
        write(tmp_path / "rehearsal")
    steps = count_steps(tmp_path / "rehearsal", replaces)
    seen = set()
    for step in range(steps):
        target = tmp_path / str(step) / "engine"
        target.parent.mkdir()
        if replaces:
            write(target)
        process = multiprocessing.get_context("fork").Process(
            target=killed_at, args=(target, step, replaces)
        )
        process.start()
        process.join()
        assert process.exitcode == 9
        if target.exists():
            state = version(target)
        else:
            with pytest.raises(EngineDirectoryError) as caught:
                read_engine_directory(target)
            interrupted = caught.value.code == "engine.interrupted"
            state = "interrupted" if interrupted else "absent"
        seen.add(state)
        if state == "interrupted":  # between the two renames; the hint says how to restore it
            assert version(target.with_name(".engine.former")) == "old"
        with pytest.raises((EngineDirectoryError, ValueError)):
            write_and_then(target, lambda staging: fail_with(ValueError))
        if replaces:  # a writer that fails has recovered it as well
            assert version(target) == ("new" if state == "new" else "old")
        assert names(target.parent) <= {"engine"}
        write(target, "later", force=True)
        assert version(target) == "later"
        assert names(target.parent) == {"engine"}
    assert seen == ({"old", "interrupted", "new"} if replaces else {"absent", "new"})


def test_every_file_is_flushed_before_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename
    root = tmp_path / "engine"

    def log_fsync(handle: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def log_rename(source: Path, to: Path) -> None:
        events.append("rename")
        rename(source, to)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(os, "rename", log_rename)
    write(root)
    staging = str(tmp_path / ".engine.staging")
    published = events.index("rename")
    flushed = {path.removeprefix(staging).lstrip("/") for path in events[:published]}
    assert flushed == {*FILES, "manifest.json", "manifest.json.sha256", "plans", "plans/sm_90", ""}
    assert events[published + 1 :] == [str(tmp_path)]
