"""The engine directory on disk: written whole or not at all, read with every byte checked."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from medfocus.engine.manifest import (
    DIGEST_NAME,
    FILE_NAME,
    MEND,
    FileRecord,
    Manifest,
    from_json,
    to_json,
)
from medfocus.errors import EngineDirectoryError

WRITABLE = "Free space or allow writing, then export the engine again"
COPY_OR_EXPORT = "Copy the engine directory again, or export it again"
# The torch backend's weights.
SEGMENTER_WEIGHTS = "segmenter.safetensors"
CLASSIFIER_WEIGHTS = "classifier.safetensors"
HEAD_WEIGHTS = "head.safetensors"
# The graphs for ONNX Runtime, OpenVINO and TensorRT; weights lie beside them, `+ DATA_SUFFIX`.
SEGMENTER_ONNX = "segmenter.onnx"
CLASSIFIER_ONNX = "classifier.onnx"
DATA_SUFFIX = ".data"
# The same in int8 as OpenVINO writes them, each with its weights in a .bin file.
SEGMENTER_INT8 = "segmenter.int8.xml"
CLASSIFIER_INT8 = "classifier.int8.xml"


def weights_of(graph: str) -> str:
    """The file that a graph's weights lie in: ONNX's, or OpenVINO's own format's."""
    return f"{graph.removesuffix('.xml')}.bin" if graph.endswith(".xml") else graph + DATA_SUFFIX


MANIFEST_LIMIT = 8 * 2**20  # bytes; a manifest is a few KiB, and it is read before it is trusted

# How formats that are mistaken for safetensors begin: those of torch.save, and a stand-in.
_LOOKS_LIKE = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a pickle, which is never loaded",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


@dataclass(frozen=True)
class EngineDirectory:
    """An engine directory of which every listed file had the listed size and SHA-256 when read."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists; no other file may be loaded.

        Raises:
            EngineDirectoryError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise _error(self.path / name, "is not part of this engine", f"{MEND} with that file")
        return self.path / name

    def graph(self, name: str) -> Path:
        """The path of a graph that the manifest lists together with its weights beside it.

        Raises:
            EngineDirectoryError: the manifest does not list one of the two.
        """
        self.file(weights_of(name))
        return self.file(name)


def _error(path: Path, problem: str, mend: str = MEND) -> EngineDirectoryError:
    return EngineDirectoryError(str(path), problem, mend)


@contextmanager
def _explained(path: Path, problem: str, mend: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(path, f"{problem}: {error.strerror}", mend) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise an OSError of what is written into `folder` as EngineDirectoryError."""
    with _explained(folder, "cannot be written", WRITABLE):
        yield


# --- reading


def read_engine_directory(path: str | Path) -> EngineDirectory:
    """Read the manifest and check it and every file that it lists, in constant memory.

    `manifest.json.sha256` guards the manifest, so no byte of an engine can change unnoticed.
    Files that the manifest does not list are left alone: nothing ever loads them.

    Raises:
        EngineDirectoryError: a file is missing, changed or outside the directory, or the manifest
            is not one that this version reads.
    """
    directory = Path(path).resolve()  # once: a link moved to another engine midway mixes nothing
    former = _sibling(directory, "former")
    if not directory.exists() and former.exists():
        mend = f"Rename {former} back to it, or export the engine again"
        raise _error(directory, "is missing: replacing it was interrupted", mend)
    if not directory.is_dir():
        mend = "Give a directory that the export wrote"
        raise _error(directory, "is not an engine directory", mend)
    data = _read_small(directory, FILE_NAME)
    try:
        manifest = from_json(data)
    except EngineDirectoryError as error:
        item = str(directory / error.item)
        raise EngineDirectoryError(item, error.problem, error.mend) from error
    if _read_small(directory, DIGEST_NAME) != _digest_line(data):
        raise _error(directory / FILE_NAME, f"has changed: {DIGEST_NAME} differs", COPY_OR_EXPORT)
    for name, expected in manifest.files.items():
        _check(_contained(directory, name), expected)
    return EngineDirectory(directory, manifest)


def load_tensors(directory: EngineDirectory, name: str) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file, parsed from the very bytes that were hashed.

    Raises:
        EngineDirectoryError: the file is not listed, has changed since the directory was read, is
            not safetensors, or holds a dtype that numpy lacks (bfloat16, float8).
    """
    path, data = directory.file(name), load_bytes(directory, name)
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        looks = [what for start, what in _LOOKS_LIKE.items() if data.startswith(start)]
        likeness = f"looks like {looks[0]}" if looks else f"cannot be parsed: {error}"
        raise _error(path, f"is not a safetensors file, it {likeness}") from error
    except KeyError as error:
        raise _error(path, f"holds tensors of dtype {error.args[0]}, unknown to numpy") from error


def load_bytes(directory: EngineDirectory, name: str) -> bytes:
    """The very bytes of a file that were hashed.

    Raises:
        EngineDirectoryError: the file is not listed, or has changed since the directory was read.
    """
    path = directory.file(name)
    data = _read_bytes(_contained(directory.path, name))
    if hashlib.sha256(data).hexdigest() != directory.manifest.files[name].sha256:
        raise _error(path, "has changed since the engine directory was read")
    return data


def _contained(directory: Path, name: str) -> Path:
    """`directory / name`, if it is a regular file that lies within, links followed."""
    path = directory / name
    with _explained(path, "cannot be read", "Allow reading it"):
        if not path.exists():
            raise _error(path, "is missing", COPY_OR_EXPORT)
        if not path.resolve().is_relative_to(directory):
            raise _error(
                path, "is a link out of the engine directory", "Copy the file to its place"
            )
        # A pipe or a device would be waited on for ever.
        if not path.is_file():
            raise _error(path, "is not a regular file")
    return path


def _read_small(directory: Path, name: str) -> bytes:
    path = _contained(directory, name)
    if path.stat().st_size > MANIFEST_LIMIT:
        raise _error(path, f"is larger than {MANIFEST_LIMIT} bytes")
    return _read_bytes(path)


def _digest_line(data: bytes) -> bytes:
    """What `sha256sum manifest.json` prints, and `sha256sum --check` reads."""
    return f"{hashlib.sha256(data).hexdigest()}  {FILE_NAME}\n".encode()


def _check(path: Path, expected: FileRecord) -> None:
    size = path.stat().st_size
    if size != expected.bytes:
        problem = f"has {size} bytes, and the manifest says {expected.bytes}"
        raise _error(path, problem, COPY_OR_EXPORT)
    if _record(path).sha256 != expected.sha256:
        raise _error(path, "has changed: its SHA-256 is not the manifest's", COPY_OR_EXPORT)


def _record(path: Path) -> FileRecord:
    with _explained(path, "cannot be read", "Allow reading it"), path.open("rb") as stream:
        return FileRecord(hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())


def _read_bytes(path: Path) -> bytes:
    with _explained(path, "cannot be read", "Allow reading it"):
        return path.read_bytes()


# --- writing


@contextmanager
def write_engine_directory(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Write an engine directory whole or not at all.

        with write_engine_directory("engines/brain") as staging:
            ...                                # write the files below `staging`
            write_manifest(staging, manifest)  # last: records what lies there

    `staging` is a hidden sibling of `target`. When the block ends, it is read back as any reader
    would, flushed to the disk and renamed; when it raises, nothing has happened. With `force` an
    engine directory at `target` is first renamed to a hidden sibling and deleted only once the
    new one is in its place. What a killed writer leaves is mended by the next one.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), or is no engine directory, or is
            being written by another process; or what was written cannot be read back or published.
    """
    target = Path(target).resolve()
    staging, former = _sibling(target, "staging"), _sibling(target, "former")
    with _sole_writer(target):
        _mend(target, staging, former)
        check_target(target, force)
        with writing(target):
            staging.mkdir()
        try:
            yield staging
            listed = {*read_engine_directory(staging).manifest.files, FILE_NAME, DIGEST_NAME}
            if unlisted := set(_list_files(staging)) - listed:
                raise _error(staging / min(unlisted), "was written after the manifest")
            _publish(target, staging, former)
        finally:
            _mend(target, staging, former)


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` into `directory` with the size and hash of all that lies there.

    Returns:
        The manifest with its `files` filled in.
    """
    manifest = unpublished(directory, manifest).manifest
    data = to_json(manifest).encode()
    with writing(directory):
        (directory / FILE_NAME).write_bytes(data)
        (directory / DIGEST_NAME).write_bytes(_digest_line(data))
    return manifest


def unpublished(directory: Path, manifest: Manifest) -> EngineDirectory:
    """The files written so far as an engine that its writer can load, and nobody else.

    The manifest, with the size and hash of all that lies in `directory`, is not written.
    """
    files = {name: _record(directory / name) for name in _list_files(directory)}
    return EngineDirectory(directory, replace(manifest, files=files))


def _sibling(target: Path, role: str) -> Path:
    return target.parent / f".{target.name}.{role}"


def _list_files(directory: Path) -> list[str]:
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir())
    return [path.relative_to(directory).as_posix() for path in paths]


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """Hold a lock that the system releases should this process die."""
    path = _sibling(target, "lock")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ended between our opening and our locking has removed that file.
            held = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise _error(target, "is being written by another process", "Wait until it has ended")
        try:
            yield
        finally:
            path.unlink()


def check_target(target: Path, force: bool) -> None:
    """Refuse to write where something is that must be kept.

    Raises:
        EngineDirectoryError: `target` exists (without `force`), or is no engine directory.
    """
    if target.exists() and not force:
        raise _error(target, "exists already", "Choose another place, or replace it with force")
    replaceable = (
        not target.exists()
        or (target / FILE_NAME).is_file()
        or (target.is_dir() and not any(target.iterdir()))
    )
    if not replaceable:
        raise _error(target, "is not an engine directory, so it is kept", "Choose another place")


def _publish(target: Path, staging: Path, former: Path) -> None:
    with _explained(target, "could not be written", WRITABLE):
        # From the leaves up: an entry is durable once the directory that holds it is.
        for folder, _, files in os.walk(staging, topdown=False):
            for name in files:
                _flush(Path(folder, name))
            _flush(Path(folder))
        if target.exists():
            target.rename(former)
        staging.rename(target)
        _flush(target.parent)


def _mend(target: Path, staging: Path, former: Path) -> None:
    """Bring a publication that stopped anywhere to its end: the old engine whole, or the new."""
    if former.exists() and not target.exists():
        former.rename(target)
    if staging.exists():
        shutil.rmtree(staging)
    if former.exists():
        # As staging, so that one deleted by half can never be taken for an engine to restore.
        former.rename(staging)
        shutil.rmtree(staging)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
