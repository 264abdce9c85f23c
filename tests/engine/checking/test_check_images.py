"""The file of check images fits the manifest, or the engine is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.layout import CHECK_IMAGES
from medfocus.errors import EngineDirectoryError
from tests.engine.checking.spoil import copied, signed
from tests.errors import refuses


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pixels", lambda pixels: pixels.astype(np.float32)),
        ("pixels", lambda pixels: pixels[..., :1]),
        ("pixels", lambda pixels: pixels[:0]),
        ("pixels", lambda pixels: pixels[:, :0]),
        ("focus_logits", lambda logits: logits[:, :, 1:]),
        ("focus_logits", lambda logits: logits * np.float32(np.nan)),
        ("score", lambda score: score[:, None]),
        ("score", lambda score: score[1:]),
        ("probabilities", lambda probabilities: probabilities[:, 1:]),
        ("patch_focus", lambda focus: focus[:, 1:, 1:]),
        ("focused", lambda focused: focused.astype(np.uint8)),
        ("embedding", None),
        ("other", lambda _: np.zeros(1, np.float32)),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    engine_directory: Path, tmp_path: Path, name: str, change: Any
) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    manifest = read_engine_directory(engine).manifest
    tensors = safetensors.numpy.load_file(engine / CHECK_IMAGES)
    before = tensors.pop(name, None)
    if change is not None:
        tensors[name] = np.ascontiguousarray(change(before))
    (engine / CHECK_IMAGES).write_bytes(safetensors.numpy.save(tensors))
    signed(engine, manifest)
    with refuses(EngineDirectoryError, "engine.tensors_invalid", CHECK_IMAGES):
        Engine.load(engine)
    Engine.load(engine, verify=False).close()


def test_a_file_with_no_image_is_refused(engine_directory: Path, tmp_path: Path) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    manifest = read_engine_directory(engine).manifest
    tensors = safetensors.numpy.load_file(engine / CHECK_IMAGES)
    empty = {name: np.ascontiguousarray(tensor[:0]) for name, tensor in tensors.items()}
    (engine / CHECK_IMAGES).write_bytes(safetensors.numpy.save(empty))
    with refuses(EngineDirectoryError, "engine.tensors_invalid", CHECK_IMAGES):
        Engine.load(signed(engine, manifest))
