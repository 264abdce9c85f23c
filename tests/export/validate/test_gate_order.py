"""What the gate checks again, spares, leaves out and deletes, with nothing exported or run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medfocus.engine.artifact.layout import (
    CLASSIFIER_INT8,
    CLASSIFIER_ONNX,
    SEGMENTER_INT8,
    SEGMENTER_ONNX,
    weights_of,
)
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.parity import Parity
from medfocus.errors import ParityError
from medfocus.export.config import ExportConfig, files_of
from medfocus.export.engine_directory import _manifest
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate import gate
from medfocus.export.validate.gate import Gate
from tests.conftest import random_bundle

GOOD = Parity(64, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, "cpu")
BAD = replace(GOOD, embedding_cosine=0.5)
BLOCKS = [f"classifier: block {number}" for number in range(3)]


class Script:
    """A gate whose backends pass or miss as a test says, and what it did, in order."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, staging: Path, config: ExportConfig
    ) -> None:
        self.done: list[str] = []
        self.passes = lambda backend, manifest: True
        self._staging, self._manifest = staging, _manifest(random_bundle(), config)
        self._gate = Gate(None, None, None, None, None, config, ProgressReporter())  # type: ignore[arg-type]
        for backend, precision in config.backends.items():
            for name in files_of(backend, precision):
                (staging / name).touch()
        monkeypatch.setattr(gate, "load_backend", self._load)
        monkeypatch.setattr(Gate, "_compare", lambda _, backend, stage: backend.parity)
        monkeypatch.setattr(Gate, "_by_range", lambda _, scratch: list(BLOCKS))
        monkeypatch.setattr(Gate, "_write_graphs", self._write)
        monkeypatch.setattr(
            Gate, "_build_plans", lambda *_: (staging / "plans").mkdir(exist_ok=True)
        )

    def run(self) -> Manifest:
        return self._gate._until_it_passes(self._staging, self._staging, self._manifest)

    def files(self) -> set[str]:
        return {path.name for path in self._staging.iterdir()}

    def _load(self, directory: Any, name: str, device: str) -> SimpleNamespace:
        manifest = directory.manifest
        precision = manifest.backends[name]
        self.done.append(f"{name} {precision}")
        parity = GOOD if self.passes(f"{name} {precision}", manifest) else BAD
        return SimpleNamespace(parity=parity, close=lambda: None)

    def _write(self, scratch: Path, staging: Path, manifest: Manifest) -> None:
        self.done.append(f"write {len(manifest.precision.float32_blocks)}")


@pytest.fixture(autouse=True)
def _processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With a fast bf16, and everything installed."""
    monkeypatch.setattr(
        "medfocus.export.openvino.compute_precision.best_compute_precision",
        lambda dtype: "fp32" if dtype == "fp32" else "bf16",
    )
    monkeypatch.setattr("medfocus.export.config.refused", lambda target, dtype: None)
    return


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return lambda *arguments, **more: Script(
        monkeypatch, tmp_path, ExportConfig(*arguments, **more)
    )


def onnx_files() -> set[str]:
    graphs = (SEGMENTER_ONNX, CLASSIFIER_ONNX)
    return {*graphs, *map(weights_of, graphs)}


def test_openvinos_fall_back_repeats_nothing_else(script: Any) -> None:
    run = script("fp16", ("onnx", "openvino"))
    run.passes = lambda backend, _: backend != "openvino bf16"
    manifest = run.run()
    assert run.done == ["write 0", "onnxruntime fp16", "openvino bf16", "openvino fp32"]
    assert manifest.backends == {"onnxruntime": "fp16", "openvino": "fp32"}


def test_what_passed_is_checked_again_on_other_graphs(script: Any) -> None:
    run = script("fp16", ("onnx", "torch"))
    run.passes = lambda backend, manifest: (
        backend != "torch fp16" or len(manifest.precision.float32_blocks) == 1
    )
    run.run()
    once = ["onnxruntime fp16", "torch fp16"]
    assert run.done == ["write 0", *once, "write 1", *once]


def test_int8_is_not_checked_again(script: Any) -> None:
    run = script("fp16", ("openvino", "torch", "tensorrt"), int8=True)
    run.passes = lambda backend, manifest: (
        backend != "torch fp16" or len(manifest.precision.float32_blocks) == 3
    )
    manifest = run.run()
    assert manifest.precision.float32_blocks == tuple(BLOCKS)
    assert [step for step in run.done if step.startswith("openvino")] == ["openvino int8"]
    assert [step for step in run.done if step.startswith("write")] == [
        "write 0",
        "write 1",
        "write 3",
    ]
    assert set(manifest.parity) == {"openvino", "torch", "tensorrt"}


def test_what_another_backend_reads_stays(script: Any) -> None:
    run = script("fp16", ("onnx", "openvino"), optional=True)
    run.passes = lambda backend, _: not backend.startswith("onnxruntime")
    manifest = run.run()
    assert manifest.backends == {"openvino": "bf16"}
    assert set(manifest.parity) == {"openvino"}
    assert manifest.precision.float32_blocks == (), "they were spared for ONNX Runtime"
    assert run.files() == onnx_files()


def test_graphs_that_nobody_reads_any_more_go(script: Any) -> None:
    run = script("fp16", ("openvino", "torch", "tensorrt"), int8=True, optional=True)
    run.passes = lambda backend, _: not backend.startswith("tensorrt")
    manifest = run.run()
    assert manifest.backends == {"openvino": "int8", "torch": "fp16"}
    assert not run.files() & {*onnx_files(), "plans"}
    assert {SEGMENTER_INT8, CLASSIFIER_INT8} < run.files()
    assert manifest.precision.half == (), "no types are written anywhere"


def test_int8_was_asked_for_and_is_never_left_out(script: Any) -> None:
    run = script("fp32", ("onnx", "openvino"), int8=True, optional=True)
    run.passes = lambda backend, _: backend != "openvino int8"
    with pytest.raises(ParityError, match="openvino in int8"):
        run.run()


def test_a_target_that_was_named_is_never_left_out(script: Any) -> None:
    run = script("fp32", ("onnx", "openvino"))
    run.passes = lambda backend, _: backend != "openvino fp32"
    with pytest.raises(ParityError, match="openvino in fp32"):
        run.run()
