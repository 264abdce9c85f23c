"""What the gate checks again, keeps in float32, leaves out and deletes; nothing is exported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

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
from medfocus.engine.artifact.precision import Precision
from medfocus.errors import ParityError
from medfocus.export.config import ExportConfig, files_of
from medfocus.export.engine_directory import _manifest
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate import gate
from medfocus.export.validate.gate import Gate
from medfocus.export.validate.graph_writer import GraphWriter
from tests.conftest import random_bundle
from tests.errors import refuses

GOOD = Parity(64, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, "cpu")
BAD = replace(GOOD, embedding_cosine=0.5)
BLOCKS = [f"classifier: block {number}" for number in range(3)]


class Script:
    """A gate whose backends pass or fail as a test decides, with a writer that only records.

    Attributes:
        done: the steps, in order.
        passes: takes "<backend> <precision>" and the manifest.
        staging: the engine directory that is being built.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, staging: Path, config: ExportConfig
    ) -> None:
        self.done: list[str] = []
        self.passes: Callable[[str, Manifest], bool] = lambda backend, manifest: True
        self.staging, self._manifest = staging, _manifest(random_bundle(), config)
        unused: Any = None
        self._gate = Gate(unused, unused, unused, unused, unused, config, ProgressReporter())
        for backend, precision in config.backends.items():
            for name in files_of(backend, precision):
                (staging / name).touch()
        monkeypatch.setattr(gate, "load_backend", self._load)
        monkeypatch.setattr(Gate, "_compare", lambda _, backend, stage: backend.parity)

    def run(self) -> Manifest:
        return self._gate.until_it_passes(cast(GraphWriter, self), self._manifest)

    def files(self) -> set[str]:
        return {path.name for path in self.staging.iterdir()}

    def write(self, precision: Precision) -> None:
        """As `GraphWriter.write`."""
        self.done.append(f"write {len(precision.float32_blocks)}")

    def build_plans(self, manifest: Manifest) -> None:
        """As `GraphWriter.build_plans`."""
        (self.staging / "plans").mkdir(exist_ok=True)

    def blocks_by_range(self) -> list[str]:
        """As `GraphWriter.blocks_by_range`."""
        return list(BLOCKS)

    def _load(self, directory: Any, name: str, device: str) -> SimpleNamespace:
        manifest = directory.manifest
        precision = manifest.backends[name]
        self.done.append(f"{name} {precision}")
        parity = GOOD if self.passes(f"{name} {precision}", manifest) else BAD
        return SimpleNamespace(parity=parity, close=lambda: None)


@pytest.fixture(autouse=True)
def _processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with a fast bf16, and all packages installed."""
    monkeypatch.setattr(
        "medfocus.export.openvino.compute_precision.best_compute_precision",
        lambda dtype: "fp32" if dtype == "fp32" else "bf16",
    )
    monkeypatch.setattr("medfocus.export.config.unavailable", lambda target, dtype: None)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return lambda *arguments, **more: Script(
        monkeypatch, tmp_path, ExportConfig(*arguments, **more)
    )


def onnx_files() -> set[str]:
    graphs = (SEGMENTER_ONNX, CLASSIFIER_ONNX)
    return {*graphs, *map(weights_of, graphs)}


def test_openvinos_fallback_repeats_nothing_else(script: Any) -> None:
    run = script("fp16", ("onnx", "openvino"))
    run.passes = lambda backend, _: backend != "openvino bf16"
    manifest = run.run()
    assert run.done == ["write 0", "onnxruntime fp16", "openvino bf16", "openvino fp32"]
    assert manifest.backends == {"onnxruntime": "fp16", "openvino": "fp32"}


def test_backends_that_passed_are_checked_again_on_new_graphs(script: Any) -> None:
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


def test_files_that_another_backend_reads_stay(script: Any) -> None:
    run = script("fp16", ("onnx", "openvino"), optional=True)
    run.passes = lambda backend, _: not backend.startswith("onnxruntime")
    manifest = run.run()
    assert manifest.backends == {"openvino": "bf16"}
    assert set(manifest.parity) == {"openvino"}
    assert manifest.precision.float32_blocks == (), "they were only needed for ONNX Runtime"
    assert run.files() == onnx_files()


def test_graphs_that_no_backend_reads_are_deleted(script: Any) -> None:
    run = script("fp16", ("openvino", "torch", "tensorrt"), int8=True, optional=True)
    run.passes = lambda backend, _: not backend.startswith("tensorrt")
    manifest = run.run()
    assert manifest.backends == {"openvino": "int8", "torch": "fp16"}
    assert not run.files() & {*onnx_files(), "plans"}
    assert {SEGMENTER_INT8, CLASSIFIER_INT8} < run.files()
    assert manifest.precision.half == (), "no file has types"


def test_int8_is_never_left_out(script: Any) -> None:
    run = script("fp32", ("onnx", "openvino"), int8=True, optional=True)
    run.passes = lambda backend, _: backend != "openvino int8"
    with refuses(ParityError, "parity.missed", "openvino in int8"):
        run.run()


def test_a_required_target_is_never_left_out(script: Any) -> None:
    run = script("fp32", ("onnx", "openvino"))
    run.passes = lambda backend, _: backend != "openvino fp32"
    with refuses(ParityError, "parity.missed", "openvino in fp32"):
        run.run()
