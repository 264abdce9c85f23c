"""The part `models`: all implementations give the same answers, and a row each."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import (
    BASELINES,
    Implementation,
    baseline_implementations,
    engine_implementations,
)
from medfocus.benchmarks.baselines.models import Models, emulates_half
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import models as module
from medfocus.benchmarks.bench.parts.models import (
    WORKLOADS,
    Loaded,
    load,
    models_part,
    workload_rows,
)
from medfocus.benchmarks.bench.timing.clock import ratio
from medfocus.benchmarks.bench.timing.cold_start import ColdStart
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors, read_engine_directory
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, HEAD_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.writing import write_manifest
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.errors import InputError
from medfocus.export.validate.images import phantoms
from tests.benchmarks.bench.rows import options_for
from tests.errors import refuses

IMAGES = phantoms(3)


@pytest.fixture(scope="module")
def directory(exported_engine: Path) -> EngineDirectory:
    return read_engine_directory(exported_engine)


@pytest.fixture(scope="module")
def reference(directory: EngineDirectory) -> Models:
    return reference_models(directory)


@pytest.fixture
def options(directory: EngineDirectory) -> BenchOptions:
    return options_for(directory, backends=("onnxruntime",), batches=(3,))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["upstream", "onnx", "compile"])
def test_upstream_answers_as_the_engine_does(
    directory: EngineDirectory, reference: Models, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it has the right weights and prompts, and is a fair baseline.

    torch.compile's code generator, which takes minutes, is left out; what it traces stays.
    """
    compiled, compile = [], torch.compile

    def trace(module: torch.nn.Module, dynamic: bool) -> Any:
        compiled.append(type(module).__name__)
        return compile(module, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", trace)
    expected = reference.segment(IMAGES)
    assert (expected > 0).any()
    plain = reference.classify(IMAGES, np.full_like(expected, NO_REGION))
    assert worst_cosine(plain, reference.classify(IMAGES, expected)) < 0.9999
    (implementation,) = baseline_implementations(directory, [way], "cpu")
    upstream = replace(implementation, precision="fp32").load()
    assert not upstream.steered
    assert np.abs(upstream.segment(IMAGES) - expected).max() < 2e-3
    with torch._dynamo.config.patch(error_on_recompile=way == "compile"):
        assert worst_cosine(upstream.classify(IMAGES, expected), plain) > 0.99999
        upstream.segment(IMAGES)
    assert compiled == (["VisionTransformer", "ImageEncoder"] if way == "compile" else [])


@pytest.mark.slow
def test_engines_are_steered_on_every_backend(
    directory: EngineDirectory, reference: Models
) -> None:
    expected = reference.segment(IMAGES)
    steered = reference.classify(IMAGES, expected)
    implementations = engine_implementations([directory], None, "cpu")
    assert {each.way for each in implementations} == {"torch", "onnxruntime", "openvino"}
    for each in implementations:
        models = each.load()
        assert models.steered
        assert np.abs(models.segment(IMAGES) - expected).max() < 2e-3, each
        assert worst_cosine(models.classify(IMAGES, expected), steered) > 0.99999, each
        models.close()
    assert engine_implementations([directory], ("tensorrt",), "cpu") == []


@pytest.mark.slow
def test_half_precision_is_not_exact(directory: EngineDirectory, reference: Models) -> None:
    (autocast,) = baseline_implementations(directory, ["autocast"], "cpu")
    assert autocast.precision == "bf16"
    if emulates_half("cpu"):
        with refuses(InputError, "bench.precision_emulated", "autocast"):
            autocast.load()
        return
    plain = reference.classify(IMAGES, np.full_like(reference.segment(IMAGES), NO_REGION))
    cosine = worst_cosine(autocast.load().classify(IMAGES, plain), plain)
    assert 0.99 < cosine < 0.999999


@pytest.mark.long
def test_a_row_per_implementation_and_workload(options: BenchOptions) -> None:
    reported: list[str] = []
    rows = list(models_part(replace(options, report=reported.append)))
    upstream, ours = BASELINES["upstream"], "medfocus, onnxruntime"
    assert [(row.what, row.implementation) for row in rows] == [
        (workload.what, name) for workload in WORKLOADS for name in (upstream, ours)
    ]
    assert {f"{workload.what}, batch 3" for workload in WORKLOADS} <= {*reported}
    for row in rows:
        assert row.measured
        assert row.batch == 3
        assert row.rounds == len(row.times_ms) == 6
        assert row.p50_ms is not None
        assert row.images_per_second == pytest.approx(3e3 / row.p50_ms)
        assert row.p95_ms is not None
        assert row.p95_ms >= row.p50_ms
        assert row.accuracy == pytest.approx(1.0, abs=1e-4)
        assert row.accuracy_of == ("IoU" if row.what == "segmenter" else "cosine")
        assert row.roofline_share is not None
        assert 0 < row.roofline_share < 1
        assert row.baseline == ("" if row.implementation == upstream else f"{upstream}, fp32")
        assert (row.ratio is None) == (row.implementation == upstream)
        assert row.noise is not None
    theirs, own = (row.peak_memory for row in rows if row.what == "both models")
    assert theirs is not None
    assert own is not None
    assert theirs > own + 100  # one loads PyTorch, the other does not


def constant(images: Sequence[SourceImage], *_: object) -> np.ndarray:
    return np.ones((len(images), 4), np.float32)


def test_an_engine_has_ratios_to_all_baselines_that_run(options: BenchOptions) -> None:
    """Upstream in float32, then under autocast; transformers runs out of memory."""

    def failing(*_: object) -> np.ndarray:
        raise RuntimeError("out of memory")

    options = replace(options, baselines=("transformers", "upstream", "autocast"))
    models = Models(constant, constant, steered=True)
    broken, *others = options.implementations
    loaded = [Loaded(broken, Models(constant, failing, steered=True), {})]
    loaded += [Loaded(each, models, {}) for each in others]
    rows = workload_rows(WORKLOADS[1], loaded, models, IMAGES, options, lambda precision: None)
    failed, upstream, autocast, ours = rows
    assert (failed.implementation, failed.status) == (broken.name, "RuntimeError: out of memory")
    assert (upstream.ratios, autocast.ratios) == ({}, {})
    assert ours.baseline == autocast.baseline == "sam2 + open_clip, fp32"
    (name,) = ours.ratios
    assert name == f"{BASELINES['autocast']}, bf16"
    assert ours.ratios[name].median == pytest.approx(ratio(autocast.times_ms, ours.times_ms).median)


def test_an_implementation_that_cannot_be_loaded_has_a_row(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, in its own process or in ours; the others are measured."""
    answer = np.ones((3, 128), np.float32)

    def start(implementation: Implementation, images: object) -> ColdStart:
        return ColdStart(1.0, 1.0, 100.0, False, answer)

    def load_models(self: Implementation) -> Models:
        if self.way == "upstream":
            raise OSError("libsomething.so is missing\nand more")
        masks = np.zeros((3, 64, 64), np.float32)
        return Models(lambda _: masks, lambda images, _: answer, steered=True)

    monkeypatch.setattr(module, "cold_start", start)
    monkeypatch.setattr(Implementation, "load", load_models)
    rows = list(models_part(options))
    assert rows[0].status == "OSError: libsomething.so is missing"
    assert rows[0].implementation == BASELINES["upstream"]
    assert [row.what for row in rows[1:]] == [workload.what for workload in WORKLOADS]
    assert all(row.measured for row in rows[1:])
    assert load(options.implementations[1], IMAGES, (1, 3)).peak_memory == {1: 100.0, 3: 100.0}


def test_baselines_have_no_visual_prompts(directory: EngineDirectory, tmp_path: Path) -> None:
    tensors = load_tensors(directory, CLASSIFIER_WEIGHTS)
    prompts = np.zeros((2, 4, 128), np.float32)
    shutil.copy(directory.file(SEGMENTER_WEIGHTS), tmp_path)
    shutil.copy(directory.file(HEAD_WEIGHTS), tmp_path)
    save_file({**tensors, "prompts": prompts}, tmp_path / CLASSIFIER_WEIGHTS)
    write_manifest(tmp_path, replace(directory.manifest, backends={"torch": "fp32"}))
    prompted = read_engine_directory(tmp_path)
    for each in baseline_implementations(prompted, ["upstream", "transformers"], "cpu"):
        with refuses(InputError, "bench.not_comparable", "head"):
            each.load()


def test_agreement_by_hand() -> None:
    one = np.full((2, 2, 2), -1.0, np.float32)
    other = one.copy()
    assert mask_iou(one, other) == 1.0  # both empty
    one[0, 0] = 1.0
    other[0, :, 0] = 1.0
    assert mask_iou(one, other) == pytest.approx((1 / 3 + 1) / 2)
    found = np.array([[3.0, 0.0], [1.0, 1.0]], np.float32)
    expected = np.array([[1.0, 0.0], [0.0, 5.0]], np.float32)
    assert worst_cosine(found, expected) == pytest.approx(0.5**0.5)
