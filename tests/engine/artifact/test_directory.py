"""Reading an engine directory: what is not complete and unchanged is refused."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from medfocus.engine.artifact.directory import MANIFEST_LIMIT, load_tensors, read_engine_directory
from medfocus.errors import EngineDirectoryError
from tests.engine.artifact.directories import (
    FILES,
    TENSORS,
    directory_of,
    names,
    record,
    version,
    write,
)
from tests.errors import refuses


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


def test_only_listed_files_can_be_loaded(target: Path) -> None:
    (target / "notes.txt").write_text("anything")
    directory = read_engine_directory(target)  # ignores unlisted files
    with refuses(EngineDirectoryError, "engine.file_not_listed", "notes.txt"):
        directory.file("notes.txt")
    with refuses(EngineDirectoryError, "engine.file_not_listed"):
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
    with refuses(EngineDirectoryError, "engine.changed", name):
        read_engine_directory(target)


def test_a_threshold_edited_by_hand_is_refused(target: Path) -> None:
    source = target / "manifest.json"
    source.write_text(source.read_text().replace('"min_score": 0.3', '"min_score": 0.2'))
    with refuses(EngineDirectoryError, "engine.changed", "manifest.json"):
        read_engine_directory(target)


@pytest.mark.parametrize("name", FILES)
def test_another_length_and_a_missing_file_are_named(target: Path, name: str) -> None:
    with (target / name).open("ab") as stream:
        stream.write(b"\0")
    with refuses(EngineDirectoryError, "engine.changed", name):
        read_engine_directory(target)
    (target / name).unlink()
    with refuses(EngineDirectoryError, "engine.missing_file", name):
        read_engine_directory(target)


def test_a_file_changed_after_reading_is_not_parsed(target: Path) -> None:
    directory = read_engine_directory(target)
    safetensors.numpy.save_file({"weight": TENSORS["weight"] + 1}, target / FILES[0])
    with refuses(EngineDirectoryError, "engine.changed", FILES[0]):
        load_tensors(directory, FILES[0])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xfe", "engine.manifest_invalid"),
        (b'{"schema_version": 1', "engine.manifest_invalid"),
        (b'{"schema_version": 7}', "engine.schema_unsupported"),
        (b" " * (MANIFEST_LIMIT + 1), "engine.manifest_invalid"),
    ],
)
def test_manifests_that_cannot_be_read_are_refused(target: Path, data: bytes, code: str) -> None:
    (target / "manifest.json").write_bytes(data)
    with refuses(EngineDirectoryError, code, str(target / "manifest.json")):
        read_engine_directory(target)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with refuses(EngineDirectoryError, "engine.not_found"):
        read_engine_directory(tmp_path / "absent")
    (tmp_path / "file").touch()
    with refuses(EngineDirectoryError, "engine.not_found"):
        read_engine_directory(tmp_path / "file")
    with refuses(EngineDirectoryError, "engine.missing_file", "manifest.json"):
        read_engine_directory(tmp_path)


# --- escapes


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..\\secret"])
def test_names_that_leave_the_directory_are_refused(target: Path, name: str) -> None:
    (target.parent / "secret").write_bytes(b"secret")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": record(b"secret").sha256, "bytes": 6}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with refuses(EngineDirectoryError, "engine.manifest_invalid", "manifest.json: files"):
        read_engine_directory(target)


def test_an_absolute_name_is_refused(target: Path) -> None:
    (target.parent / "secret").write_bytes(b"secret")
    manifest = json.loads((target / "manifest.json").read_text())
    name = str(target.parent / "secret")
    manifest["files"][name] = {"sha256": record(b"secret").sha256, "bytes": 6}
    (target / "manifest.json").write_text(json.dumps(manifest))
    with refuses(EngineDirectoryError, "engine.manifest_invalid", "manifest.json: files"):
        read_engine_directory(target)


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "manifest.json.sha256"])
def test_links_out_of_the_directory_are_refused(target: Path, name: str) -> None:
    outside = target.parent / "outside"
    (target / name).rename(outside)
    (target / name).symlink_to(outside)
    with refuses(EngineDirectoryError, "engine.unsafe_path", name):
        read_engine_directory(target)


def test_a_linked_folder_is_refused_and_a_link_within_is_not(target: Path) -> None:
    (target / FILES[2]).unlink()
    (target / "other").touch()
    (target / FILES[2]).symlink_to("other")
    assert version(target) == "old"
    (target / "plans").rename(target.parent / "plans")
    (target / "plans").symlink_to("../plans")
    with refuses(EngineDirectoryError, "engine.unsafe_path", "a.plan"):
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
    with refuses(EngineDirectoryError, "engine.unsafe_path", FILES[2]):
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
        "truncated.safetensors": safetensors.numpy.save(TENSORS)[:-1],
        "empty.safetensors": b"",
    }
    directory = read_engine_directory(directory_of(tmp_path / "engine", files))
    for name in files:
        with refuses(EngineDirectoryError, "engine.tensors_invalid", name) as caught:
            load_tensors(directory, name)
        guess = {"pickle": "pickle", "zip": "zip archive", "lfs": "Git LFS"}.get(Path(name).stem)
        assert guess is None or guess in caught.value.problem
    assert not Path("unpickled").exists()


def test_a_dtype_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    directory = read_engine_directory(directory_of(tmp_path / "engine", {"a.safetensors": data}))
    with refuses(EngineDirectoryError, "engine.tensors_invalid", "a.safetensors") as caught:
        load_tensors(directory, "a.safetensors")
    assert "BF16" in caught.value.problem
