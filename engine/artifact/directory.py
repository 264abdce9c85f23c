"""An engine directory, read with every byte checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from medfocus.engine.artifact.layout import weights_of
from medfocus.engine.artifact.manifest import (
    DIGEST_NAME,
    FILE_NAME,
    HINT,
    FileRecord,
    Manifest,
    from_json,
)
from medfocus.errors import EngineDirectoryError

COPY_OR_EXPORT = "Copy the engine directory again, or export it again"
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
            raise directory_error(
                self.path / name, "is not part of this engine", f"{HINT} with that file"
            )
        return self.path / name

    def graph(self, name: str) -> Path:
        """The path of a graph that the manifest lists together with its weights beside it.

        Raises:
            EngineDirectoryError: the manifest does not list one of the two.
        """
        self.file(weights_of(name))
        return self.file(name)


def directory_error(path: Path, problem: str, hint: str = HINT) -> EngineDirectoryError:
    return EngineDirectoryError(str(path), problem, hint)


@contextmanager
def explained(path: Path, problem: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise directory_error(path, f"{problem}: {error.strerror}", hint) from error


def read_engine_directory(path: str | Path) -> EngineDirectory:
    """Read the manifest and check it and every file that it lists, in constant memory.

    `manifest.json.sha256` guards the manifest, so no byte of an engine can change unnoticed.
    Files that the manifest does not list are left alone: nothing ever loads them.

    Raises:
        EngineDirectoryError: a file is missing, changed or outside the directory, or the manifest
            is not one that this version reads.
    """
    directory = Path(path).resolve()  # once: a link moved to another engine midway mixes nothing
    former = sibling(directory, "former")
    if not directory.exists() and former.exists():
        hint = f"Rename {former} back to it, or export the engine again"
        raise directory_error(directory, "is missing: replacing it was interrupted", hint)
    if not directory.is_dir():
        hint = "Give a directory that the export wrote"
        raise directory_error(directory, "is not an engine directory", hint)
    data = _read_small(directory, FILE_NAME)
    try:
        manifest = from_json(data)
    except EngineDirectoryError as error:
        item = str(directory / error.item)
        raise EngineDirectoryError(item, error.problem, error.hint) from error
    if _read_small(directory, DIGEST_NAME) != digest_line(data):
        raise directory_error(
            directory / FILE_NAME, f"has changed: {DIGEST_NAME} differs", COPY_OR_EXPORT
        )
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
        raise directory_error(path, f"is not a safetensors file, it {likeness}") from error
    except KeyError as error:
        raise directory_error(
            path, f"holds tensors of dtype {error.args[0]}, unknown to numpy"
        ) from error


def load_bytes(directory: EngineDirectory, name: str) -> bytes:
    """The very bytes of a file that were hashed.

    Raises:
        EngineDirectoryError: the file is not listed, or has changed since the directory was read.
    """
    path = directory.file(name)
    data = _read_bytes(_contained(directory.path, name))
    if hashlib.sha256(data).hexdigest() != directory.manifest.files[name].sha256:
        raise directory_error(path, "has changed since the engine directory was read")
    return data


def _contained(directory: Path, name: str) -> Path:
    """`directory / name`, if it is a regular file that lies within, links followed."""
    path = directory / name
    with explained(path, "cannot be read", "Allow reading it"):
        if not path.exists():
            raise directory_error(path, "is missing", COPY_OR_EXPORT)
        if not path.resolve().is_relative_to(directory):
            raise directory_error(
                path, "is a link out of the engine directory", "Copy the file to its place"
            )
        # A pipe or a device would be waited on for ever.
        if not path.is_file():
            raise directory_error(path, "is not a regular file")
    return path


def _read_small(directory: Path, name: str) -> bytes:
    path = _contained(directory, name)
    if path.stat().st_size > MANIFEST_LIMIT:
        raise directory_error(path, f"is larger than {MANIFEST_LIMIT} bytes")
    return _read_bytes(path)


def digest_line(data: bytes) -> bytes:
    """What `sha256sum manifest.json` prints, and `sha256sum --check` reads."""
    return f"{hashlib.sha256(data).hexdigest()}  {FILE_NAME}\n".encode()


def _check(path: Path, expected: FileRecord) -> None:
    size = path.stat().st_size
    if size != expected.bytes:
        problem = f"has {size} bytes, and the manifest says {expected.bytes}"
        raise directory_error(path, problem, COPY_OR_EXPORT)
    if file_record(path).sha256 != expected.sha256:
        raise directory_error(
            path, "has changed: its SHA-256 is not the manifest's", COPY_OR_EXPORT
        )


def file_record(path: Path) -> FileRecord:
    with explained(path, "cannot be read", "Allow reading it"), path.open("rb") as stream:
        return FileRecord(hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell())


def _read_bytes(path: Path) -> bytes:
    with explained(path, "cannot be read", "Allow reading it"):
        return path.read_bytes()


def sibling(target: Path, role: str) -> Path:
    return target.parent / f".{target.name}.{role}"
