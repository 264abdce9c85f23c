"""Small engine directories for the tests of reading and writing."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import FileRecord, Producer
from medfocus.engine.artifact.writing import write_engine_directory, write_manifest
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
    """The version of the engine at `target`, every hash checked."""
    return read_engine_directory(target).manifest.producer.version


def record(data: bytes) -> FileRecord:
    return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


def directory_of(path: Path, files: dict[str, bytes]) -> Path:
    """A directory whose manifest matches the files, whatever they hold."""
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    write_manifest(path, MANIFEST)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
