"""Engines with one layer's weights changed, and every hash as if they had been written so."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.layout import weights_of
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME, Manifest
from medfocus.engine.artifact.writing import write_manifest


def copied(engine: Path, to: Path) -> Path:
    """A copy whose files may be changed."""
    return Path(shutil.copytree(engine, to))


def signed(engine: Path, manifest: Manifest) -> Path:
    """The engine with a manifest that lists its files as they are now."""
    for name in (FILE_NAME, DIGEST_NAME):
        (engine / name).unlink()
    write_manifest(engine, manifest)
    return engine


def spoil_onnx(engine: Path, graph: str, factor: float) -> Path:
    """Scale the largest weight of an ONNX graph."""
    manifest = read_engine_directory(engine).manifest
    model = onnx.load(engine / graph, load_external_data=False)
    stored = {
        entry.key: entry.value
        for entry in max(
            (tensor for tensor in model.graph.initializer if tensor.external_data),
            key=lambda tensor: np.prod(tensor.dims),
        ).external_data
    }
    weights = np.memmap(
        engine / weights_of(graph),
        np.float32,
        "r+",
        int(stored["offset"]),
        (int(stored["length"]) // 4,),
    )
    weights *= factor
    weights.flush()
    return signed(engine, manifest)


def spoil_weights(engine: Path, file: str, name: str, factor: float) -> Path:
    """Scale one tensor of the torch backend's weights."""
    manifest = read_engine_directory(engine).manifest
    tensors = safetensors.numpy.load_file(engine / file)
    tensors[name] = tensors[name] * np.float32(factor)
    (engine / file).write_bytes(safetensors.numpy.save(tensors))
    return signed(engine, manifest)
