"""The head of an engine directory fits its manifest, or the directory is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.writing import write_manifest
from medfocus.errors import EngineDirectoryError
from tests.engine.artifact.test_manifest import MANIFEST
from tests.errors import refuses

COUNT = len(MANIFEST.classes)
HEAD: dict[str, Any] = {
    "class_embeddings": np.ones((COUNT, 8), np.float32),
    "logit_scale": np.array(9, np.float32),
    "strength": np.ones(4, np.float32),
}
CACHED = HEAD | {
    "cache_keys": np.ones((5, 8), np.float32),
    "cache_values": np.ones((5, COUNT), np.float32),
    "cache_sharpness": np.array(5.5, np.float32),
}


def engine(path: Path, tensors: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "head.safetensors").write_bytes(safetensors.numpy.save(tensors))
    write_manifest(path, MANIFEST)
    return path


@pytest.mark.parametrize("tensors", [HEAD, CACHED])
def test_a_head_that_fits_is_read(tmp_path: Path, tensors: dict[str, Any]) -> None:
    read_engine_directory(engine(tmp_path / "engine", tensors))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("class_embeddings", np.ones((COUNT, 8), np.float16)),
        ("class_embeddings", np.ones((COUNT + 1, 8), np.float32)),
        ("class_embeddings", np.ones(8, np.float32)),
        ("class_embeddings", np.full((COUNT, 8), np.nan, np.float32)),
        ("class_embeddings", None),
        ("logit_scale", np.ones(1, np.float32)),
        ("logit_scale", np.array(np.inf, np.float32)),
        ("strength", np.ones((2, 2), np.float32)),
        ("strength", np.ones(4)),
        ("cache_keys", np.ones((5, 9), np.float32)),
        ("cache_values", np.ones((6, COUNT), np.float32)),
        ("cache_values", np.ones((5, COUNT + 1), np.float32)),
        ("cache_sharpness", None),
        ("other", np.ones(1, np.float32)),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, name: str, tensor: Any) -> None:
    tensors = {key: value for key, value in (CACHED | {name: tensor}).items() if value is not None}
    path = engine(tmp_path / "engine", tensors)
    with refuses(EngineDirectoryError, "engine.tensors_invalid", f"head.safetensors: {name}"):
        read_engine_directory(path)
