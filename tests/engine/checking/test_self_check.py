"""An engine whose answers are wrong on this machine is refused when it is loaded."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.layout import CHECK_IMAGES
from medfocus.engine.backends.onnxruntime import OnnxRuntimeBackend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.checking.check_images import CheckImage, read_check_images
from medfocus.engine.checking.self_check import limits, measure
from medfocus.errors import ParityError
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import build
from medfocus.export.validate.images import phantoms
from tests.conftest import random_bundle
from tests.engine.checking.spoil import copied, signed, spoil_onnx, spoil_weights
from tests.errors import refuses

MISSED = "parity.missed_here"


@pytest.fixture(scope="module")
def directory(engine_directory: Path) -> EngineDirectory:
    return read_engine_directory(engine_directory)


@pytest.fixture(scope="module")
def measured(directory: EngineDirectory) -> Iterator[Any]:
    """`measure` with the backend that computed the answers."""
    backend = load_backend(directory, "torch", "cpu")
    with closing(backend), closing(backend.buffer_pool(directory.manifest, 2)) as pool:
        yield lambda check: measure(backend, pool, directory.manifest, check)


def changed(check: CheckImage, field: str) -> CheckImage:
    """A check image with another answer: as wrong as the limits of fp32 just do not allow."""
    value = getattr(check, field)
    if field == "focused":
        return replace(check, focused=~value)
    if field == "embedding":
        return replace(check, embedding=value + 0.01 * np.roll(value, 1))
    if field == "focus_logits":
        return replace(check, focus_logits=np.roll(value, 1, axis=0))
    other = np.array(value)
    other[(0,) * value.ndim] += 0.002
    return replace(check, **{field: other})


@pytest.mark.parametrize(
    ("field", "figures"),
    [
        ("focus_logits", {"mask_iou", "mask_logit_error"}),
        ("score", {"score_error"}),
        ("embedding", {"embedding_cosine"}),
        ("probabilities", {"probability_difference"}),
        ("patch_focus", {"patch_focus_difference"}),
        ("focused", {"focused_agreement"}),
    ],
)
def test_every_part_of_an_answer_is_compared(
    directory: EngineDirectory, measured: Any, field: str, figures: set[str]
) -> None:
    check = read_check_images(directory)[0]
    limit = limits(directory.manifest, "torch")
    assert limit.missed(measured(check)) == ()
    missed = {text.split()[0] for text in limit.missed(measured(changed(check, field)))}
    assert missed == figures


def test_the_answers_are_those_that_a_caller_gets(engine_directory: Path) -> None:
    checks = read_check_images(read_engine_directory(engine_directory))
    with Engine.load(engine_directory, "torch", "cpu") as engine:
        predictions = engine.classify([check.pixels for check in checks], strict=True)
    assert len(checks) == 4
    for check, prediction in zip(checks, predictions, strict=True):
        assert prediction.focused == check.focused
        assert prediction.focus_logits is not None
        np.testing.assert_allclose(prediction.focus_logits, check.focus_logits, atol=1e-3)
        found = list(prediction.probabilities.values())
        np.testing.assert_allclose(found, check.probabilities, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["segmenter.onnx", "classifier.onnx"])
def test_one_layer_scaled_is_refused_and_auto_takes_the_next_backend(
    exported_engine: Path, tmp_path: Path, graph: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = spoil_onnx(copied(exported_engine, tmp_path / "engine"), graph, 1.2)
    for name in ("onnxruntime", "openvino"):
        with refuses(ParityError, MISSED, name):
            Engine.load(engine, name)
        Engine.load(engine, name, verify=False).close()
    caplog.clear()
    with Engine.load(engine) as loaded:
        assert loaded.backend == "torch"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage().split()[0] for record in warnings] == ["openvino", "onnxruntime"]


@pytest.mark.slow
def test_a_layer_scaled_in_bf16_is_refused_by_every_backend_that_is_left(tmp_path: Path) -> None:
    config = ExportConfig("bf16", ("torch",), buckets=(1,))
    build(tmp_path / "engine", random_bundle(), config, phantoms(2))
    Engine.load(tmp_path / "engine").close()
    for file, tensor in (
        ("classifier.safetensors", "visual.transformer.resblocks.3.mlp.c_fc.weight"),
        ("segmenter.safetensors", "image_encoder.trunk.blocks.1.mlp.layers.0.weight"),
    ):
        copy = copied(tmp_path / "engine", tmp_path / file)
        for backend in ("torch", "auto"):
            with refuses(ParityError, MISSED, "torch in bf16"):
                Engine.load(spoil_weights(copy, file, tensor, 1.5), backend)


@pytest.mark.slow
def test_a_runtime_that_fails_on_the_check_image_is_refused_without_its_words(
    exported_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DOE^JANE")

    monkeypatch.setattr(OnnxRuntimeBackend, "segment", fail)
    with refuses(ParityError, MISSED, "onnxruntime") as caught:
        Engine.load(exported_engine, "onnxruntime")
    assert "JANE" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_engine_without_check_images_is_loaded_and_says_so(
    engine_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = copied(engine_directory, tmp_path / "engine")
    manifest = read_engine_directory(engine).manifest
    (engine / CHECK_IMAGES).unlink()
    with caplog.at_level(logging.INFO):
        Engine.load(signed(engine, manifest)).close()
    assert any("check images" in message for message in caplog.messages)
