"""Reading an engine directory, with every byte checked against its hash."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from medfocus.engine.artifact.files import (
    digest_line,
    directory_error,
    file_record,
    reading,
    sibling,
)
from medfocus.engine.artifact.head import check_head
from medfocus.engine.artifact.layout import HEAD_WEIGHTS, weights_of
from medfocus.engine.artifact.manifest import (
    DIGEST_NAME,
    FILE_NAME,
    HINT,
    FileRecord,
    Manifest,
    from_json,
)
from medfocus.engine.artifact.onnx_references import external_files
from medfocus.errors import EngineDirectoryError

COPY_OR_EXPORT = "copy the engine directory again, or export it again"
MANIFEST_LIMIT = 8 * 2**20  # bytes; a manifest is a few KiB, and it is read before it is trusted

# How files that are mistaken for safetensors begin.
_LOOKS_LIKE = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a pickle, which is never loaded",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


@dataclass(frozen=True)
class EngineDirectory:
    """An engine directory whose listed files had the listed sizes and SHA-256 when it was read."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists; no other file may be loaded.

        Raises:
            EngineDirectoryError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise directory_error(
                self.path / name,
                "is not part of this engine",
                f"{HINT} with that file",
                code="engine.file_not_listed",
            )
        return self.path / name

    def graph(self, name: str) -> Path:
        """The path of a graph that the manifest lists together with its weights.

        Raises:
            EngineDirectoryError: the manifest does not list one of the two, or a file that an ONNX
                graph refers to; or the graph is not ONNX.
        """
        self.file(weights_of(name))
        path = self.file(name)
        if path.suffix == ".onnx":
            for referred in sorted(_external_files(path)):
                self.file(referred)
        return path


def read_engine_directory(path: str | Path) -> EngineDirectory:
    """Read the manifest, and check it and every file that it lists, in constant memory.

    `manifest.json.sha256` guards the manifest, so no byte of an engine can change unnoticed.
    Files that the manifest does not list are ignored: nothing ever loads them.

    Raises:
        EngineDirectoryError: a file is missing, changed or outside the directory; the manifest is
            not one that this version reads; the head does not fit it.
    """
    # Resolved once, so that a link redirected in the meantime cannot mix two engines.
    directory = Path(path).resolve()
    former = sibling(directory, "former")
    if not directory.exists() and former.exists():
        hint = f"rename {former} back to it, or export the engine again"
        problem = "is missing: replacing it was interrupted"
        raise directory_error(directory, problem, hint, code="engine.interrupted")
    if not directory.is_dir():
        hint = "give an engine directory that medfocus export wrote"
        problem = "is not an engine directory"
        raise directory_error(directory, problem, hint, code="engine.not_found")
    data = _read_small(directory, FILE_NAME)
    try:
        manifest = from_json(data)
    except EngineDirectoryError as error:
        item = str(directory / error.item)
        raise EngineDirectoryError(item, error.problem, error.hint, code=error.code) from error
    if _read_small(directory, DIGEST_NAME) != digest_line(data):
        raise _changed(directory / FILE_NAME, f"has changed: {DIGEST_NAME} differs")
    for name, expected in manifest.files.items():
        _check(_contained(directory, name), expected)
    engine = EngineDirectory(directory, manifest)
    if HEAD_WEIGHTS in manifest.files:
        tensors = load_tensors(engine, HEAD_WEIGHTS)
        check_head(directory / HEAD_WEIGHTS, tensors, len(manifest.classes))
    return engine


def load_tensors(directory: EngineDirectory, name: str) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file, parsed from the same bytes that were hashed.

    Raises:
        EngineDirectoryError: the file is not listed, has changed since the directory was read, is
            not safetensors, or holds a dtype that NumPy lacks (bfloat16, float8).
    """
    path, data = directory.file(name), load_bytes(directory, name)
    code = "engine.tensors_invalid"
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        looks = [what for start, what in _LOOKS_LIKE.items() if data.startswith(start)]
        likeness = f", it looks like {looks[0]}" if looks else ", or it is damaged"
        problem = f"is not a safetensors file{likeness}"
        raise directory_error(path, problem, code=code) from error
    except KeyError as error:
        problem = f"holds tensors of dtype {error.args[0]}, which NumPy does not have"
        raise directory_error(path, problem, code=code) from error


def load_bytes(directory: EngineDirectory, name: str) -> bytes:
    """The content of a file, the same bytes that were hashed.

    Raises:
        EngineDirectoryError: the file is not listed, or has changed since the directory was read.
    """
    path = directory.file(name)
    with reading(path):
        data = _contained(directory.path, name).read_bytes()
    if hashlib.sha256(data).hexdigest() != directory.manifest.files[name].sha256:
        raise _changed(path, "has changed since the engine directory was read", HINT)
    return data


def _external_files(path: Path) -> set[str]:
    with reading(path):
        model = path.read_bytes()
    try:
        return external_files(model)
    except ValueError:
        problem = "is not an ONNX graph, or is damaged"
        raise directory_error(path, problem, code="engine.not_loadable") from None


def _contained(directory: Path, name: str) -> Path:
    """`directory / name`, if it is a regular file inside the directory, links followed."""
    path = directory / name
    with reading(path):
        if not path.exists():
            raise directory_error(path, "is missing", COPY_OR_EXPORT, code="engine.missing_file")
        if not path.resolve().is_relative_to(directory):
            problem = "is a link that leads out of the engine directory"
            hint = "copy the file to its place"
            raise directory_error(path, problem, hint, code="engine.unsafe_path")
        # Reading a pipe or a device could block forever.
        if not path.is_file():
            raise directory_error(path, "is not a regular file", code="engine.unsafe_path")
    return path


def _read_small(directory: Path, name: str) -> bytes:
    path = _contained(directory, name)
    with reading(path):
        if path.stat().st_size > MANIFEST_LIMIT:
            problem = f"is larger than {MANIFEST_LIMIT} bytes"
            raise directory_error(path, problem, code="engine.manifest_invalid")
        return path.read_bytes()


def _check(path: Path, expected: FileRecord) -> None:
    size = path.stat().st_size
    if size != expected.bytes:
        raise _changed(path, f"has {size} bytes, and the manifest says {expected.bytes}")
    if file_record(path).sha256 != expected.sha256:
        raise _changed(path, "has changed: its SHA-256 is not the manifest's")


def _changed(path: Path, problem: str, hint: str = COPY_OR_EXPORT) -> EngineDirectoryError:
    return directory_error(path, problem, hint, code="engine.changed")
