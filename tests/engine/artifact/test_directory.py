"""The engine directory: what is not whole and unchanged is refused, whatever stopped the writer."""

import hashlib
import json
import multiprocessing
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from medfocus.engine.artifact.directory import MANIFEST_LIMIT, load_tensors, read_engine_directory
from medfocus.engine.artifact.manifest import FileRecord, Producer
from medfocus.engine.artifact.writing import write_engine_directory, write_manifest
from medfocus.errors import EngineDirectoryError
from tests.engine.artifact.test_manifest import MANIFEST

TENSORS: dict[str, np.ndarray] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(3, dtype=np.float16),
}
FILES = ("classifier.safetensors", "plans/sm_90/a.plan", "empty.bin")


def write(target: Path, version: str = "old", force: bool = False) -> None:
    with write_engine_directory(target, force=force) as staging:
        safetensors.numpy.save_file(TENSORS, staging / FILES[0])
        (staging / FILES[1]).parent.mkdir(parents=True)
        (staging / FILES[1]).write_bytes(version.encode() * 20)
        (staging / FILES[2]).touch()
        write_manifest(staging, replace(MANIFEST, producer=Producer("medfocus", version), files={}))


def version(target: Path) -> str:
    """Which of the engines lies at `target`, every hash checked."""
    return read_engine_directory(target).manifest.producer.version


def record(data: bytes) -> FileRecord:
    return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


def directory_of(path: Path, files: dict[str, bytes]) -> Path:
    """A directory whose manifest fits the files, whatever they hold."""
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    write_manifest(path, MANIFEST)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    write(tmp_path / "engine")
    return tmp_path / "engine"


def test_reads_what_it_writes(target: Path) -> None:
    directory = read_engine_directory(target)
    assert directory.path == target
    for name in FILES:
        data = directory.file(name).read_bytes()
        assert directory.manifest.files[name] == record(data)
    assert directory.manifest.files.keys() == set(FILES)
    tensors = load_tensors(directory, FILES[0])
    assert tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected)
    assert names(target.parent) == {"engine"}


def test_only_listed_files_are_given_out(target: Path) -> None:
    (target / "notes.txt").write_text("anything")
    directory = read_engine_directory(target)  # what is not listed is left alone
    with pytest.raises(EngineDirectoryError, match=r"notes\.txt: is not part of this engine"):
        directory.file("notes.txt")
    with pytest.raises(EngineDirectoryError, match="is not part of this engine"):
        load_tensors(directory, "../other.safetensors")


# --- changes


@pytest.mark.parametrize("name", [*FILES[:2], "manifest.json", "manifest.json.sha256"])
def test_one_changed_byte_anywhere_is_refused(target: Path, name: str) -> None:
    original = (target / name).read_bytes()
    for place in range(len(original)):
        changed = bytearray(original)
        changed[place] ^= 1
        (target / name).write_bytes(changed)
        with pytest.raises(EngineDirectoryError):
            read_engine_directory(target)
    (target / name).write_bytes(original)
    assert version(target) == "old"


@pytest.mark.parametrize("name", FILES[:2])
def test_a_changed_file_is_named(target: Path, name: str) -> None:
    data = (target / name).read_bytes()
    (target / name).write_bytes(data[:-1] + b"?")
    with pytest.raises(EngineDirectoryError, match=f"{name}: has changed"):
        read_engine_directory(target)


def test_a_threshold_edited_by_hand_is_refused(target: Path) -> None:
    source = target / "manifest.json"
    source.write_text(source.read_text().replace('"min_score": 0.3', '"min_score": 0.2'))
    with pytest.raises(EngineDirectoryError, match=r"manifest\.json: has changed"):
        read_engine_directory(target)


@pytest.mark.parametrize("name", FILES)
def test_another_length_and_a_missing_file_are_named(target: Path, name: str) -> None:
    with (target / name).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(EngineDirectoryError, match=f"{name}: has .* bytes, and the manifest says"):
        read_engine_directory(target)
    (target / name).unlink()
    with pytest.raises(EngineDirectoryError, match=f"{name}: is missing"):
        read_engine_directory(target)


def test_a_file_changed_after_reading_is_not_parsed(target: Path) -> None:
    directory = read_engine_directory(target)
    safetensors.numpy.save_file({"weight": TENSORS["weight"] + 1}, target / FILES[0])
    with pytest.raises(EngineDirectoryError, match="has changed since"):
        load_tensors(directory, FILES[0])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xfe", "is not valid UTF-8 JSON"),
        (b'{"schema_version": 1', "is not valid UTF-8 JSON"),
        (b'{"schema_version": 7}', "this medfocus reads 1"),
        (b" " * (MANIFEST_LIMIT + 1), "is larger than"),
    ],
)
def test_manifests_that_cannot_be_read_are_refused(target: Path, data: bytes, problem: str) -> None:
    (target / "manifest.json").write_bytes(data)
    with pytest.raises(EngineDirectoryError, match=problem) as caught:
        read_engine_directory(target)
    assert caught.value.item.startswith(str(target / "manifest.json"))


def test_what_is_no_engine_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineDirectoryError, match="is not an engine directory"):
        read_engine_directory(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(EngineDirectoryError, match="is not an engine directory"):
        read_engine_directory(tmp_path / "file")
    with pytest.raises(EngineDirectoryError, match=r"manifest\.json: is missing"):
        read_engine_directory(tmp_path)


# --- escapes


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..\\secret"])
def test_names_that_leave_the_directory_are_refused(target: Path, name: str) -> None:
    (target.parent / "secret").write_bytes(b"secret")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": record(b"secret").sha256, "bytes": 6}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineDirectoryError, match="is not a plain relative file name"):
        read_engine_directory(target)


def test_an_absolute_name_is_refused(target: Path) -> None:
    (target.parent / "secret").write_bytes(b"secret")
    manifest = json.loads((target / "manifest.json").read_text())
    name = str(target.parent / "secret")
    manifest["files"][name] = {"sha256": record(b"secret").sha256, "bytes": 6}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineDirectoryError, match="is not a plain relative file name"):
        read_engine_directory(target)


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "manifest.json.sha256"])
def test_links_out_of_the_directory_are_refused(target: Path, name: str) -> None:
    outside = target.parent / "outside"
    (target / name).rename(outside)
    (target / name).symlink_to(outside)
    with pytest.raises(EngineDirectoryError, match=f"{name}: is a link out of"):
        read_engine_directory(target)


def test_a_linked_folder_is_refused_and_a_link_within_is_not(target: Path) -> None:
    (target / FILES[2]).unlink()
    (target / "other").touch()
    (target / FILES[2]).symlink_to("other")
    assert version(target) == "old"
    (target / "plans").rename(target.parent / "plans")
    (target / "plans").symlink_to("../plans")
    with pytest.raises(EngineDirectoryError, match="is a link out of"):
        read_engine_directory(target)


def test_a_link_to_the_directory_is_followed_once(target: Path) -> None:
    link = target.parent / "current"
    link.symlink_to("engine")
    directory = read_engine_directory(link)
    link.unlink()
    assert load_tensors(directory, FILES[0]).keys() == TENSORS.keys()


def test_a_pipe_is_not_waited_on(target: Path) -> None:
    (target / FILES[2]).unlink()
    os.mkfifo(target / FILES[2])
    with pytest.raises(EngineDirectoryError, match="is not a regular file"):
        read_engine_directory(target)


# --- tensors


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_a_pickle_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("torch.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious()))
    files = {
        "pickle.safetensors": pickle.dumps(Malicious()),
        "zip.safetensors": Path("torch.zip").read_bytes(),
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "torn.safetensors": safetensors.numpy.save(TENSORS)[:-1],
        "empty.safetensors": b"",
    }
    directory = read_engine_directory(directory_of(tmp_path / "engine", files))
    for name, problem in {
        "pickle.safetensors": "it looks like a pickle",
        "zip.safetensors": "it looks like a zip archive",
        "lfs.safetensors": "it looks like a Git LFS pointer",
        "torn.safetensors": "it cannot be parsed",
        "empty.safetensors": "it cannot be parsed",
    }.items():
        with pytest.raises(
            EngineDirectoryError, match=f"{name}: is not a safetensors file, {problem}"
        ):
            load_tensors(directory, name)
    assert not Path("unpickled").exists()


def test_a_dtype_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    directory = read_engine_directory(directory_of(tmp_path / "engine", {"a.safetensors": data}))
    with pytest.raises(EngineDirectoryError, match="dtype BF16"):
        load_tensors(directory, "a.safetensors")


# --- writing


def test_an_existing_target_is_kept(target: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineDirectoryError, match="exists already"):
        write(target, "new")
    assert version(target) == "old"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    with pytest.raises(EngineDirectoryError, match="is not an engine directory, so it is kept"):
        write(tmp_path / "photos", force=True)
    assert names(tmp_path / "photos") == {"one.jpg"}


def test_force_replaces_the_whole(target: Path) -> None:
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
    ("act", "problem"),
    [
        (lambda staging: (staging / "manifest.json").unlink(), r"manifest\.json: is missing"),
        (lambda staging: (staging / "late").touch(), "late: was written after the manifest"),
        (lambda staging: (staging / "file").write_text("x"), "file: has 1 bytes, and the manifest"),
    ],
)
def test_what_could_not_be_read_is_not_published(
    tmp_path: Path, act: Callable[[Path], object], problem: str
) -> None:
    with pytest.raises(EngineDirectoryError, match=problem):
        write_and_then(tmp_path / "engine", act)
    assert names(tmp_path) == set()


def test_a_second_writer_waits_its_turn(tmp_path: Path) -> None:
    with write_engine_directory(tmp_path / "engine") as staging:
        with pytest.raises(EngineDirectoryError, match="is being written by another process"):
            write(tmp_path / "engine", "second")
        write_manifest(staging, replace(MANIFEST, producer=Producer("medfocus", "first")))
    assert version(tmp_path / "engine") == "first"


# --- the writer stops at any step

STEPS = ("mkdir", "open", "fsync", "rename", "rmdir", "unlink")


def failing_at(monkeypatch: pytest.MonkeyPatch, step: int, fail: Callable[[], None]) -> list[int]:
    """Make the `step`-th call that changes the disk fail before it does; gives the calls' count."""
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
        if not failed:  # making the parent folder, which is there already, may fail
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
def test_a_kill_at_any_step_is_mended_by_the_next_writer(tmp_path: Path, replaces: bool) -> None:
    """The process ends at once, with no handler run, as by SIGKILL or a power cut."""
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
            state = "interrupted" if "was interrupted" in caught.value.problem else "absent"
        seen.add(state)
        if state == "interrupted":  # the one moment between two renames: the error says the hint
            assert version(target.with_name(".engine.former")) == "old"
        with pytest.raises((EngineDirectoryError, ValueError)):
            write_and_then(target, lambda staging: fail_with(ValueError))
        if replaces:  # a writer that fails has mended all the same
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
