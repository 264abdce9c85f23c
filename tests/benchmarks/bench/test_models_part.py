"""Both models beside upstream's own code on the engine's weights: the same answers, a row each."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import (
    BASELINES,
    Implementation,
    Models,
    baseline_implementations,
    emulates_half,
    engine_implementations,
)
from medfocus.benchmarks.bench.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import models as module
from medfocus.benchmarks.bench.parts.models import JOBS, Entrant, job_rows, models_part
from medfocus.benchmarks.bench.timing.cold_start import Alone
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors, read_engine_directory
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, HEAD_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.writing import write_manifest
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import NO_REGION
from medfocus.errors import InputError
from medfocus.export.validate.images import phantoms
from tests.benchmarks.bench.rows import HERE

IMAGES = phantoms(3)


@pytest.fixture(scope="module")
def directory(exported_engine: Path) -> EngineDirectory:
    return read_engine_directory(exported_engine)


@pytest.fixture(scope="module")
def reference(directory: EngineDirectory) -> Models:
    return reference_models(directory)


def request_for(directory: EngineDirectory, say: Callable[[str], object]) -> BenchOptions:
    return BenchOptions(
        engines=(directory,),
        backends=("onnxruntime",),
        peers=("upstream",),
        device="cpu",
        batches=(3,),
        images=4,
        seconds=0.1,
        environment=HERE,
        say=say,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["upstream", "onnx"])
def test_upstream_answers_as_the_engine_does(
    directory: EngineDirectory, reference: Models, way: str
) -> None:
    """Which shows that it was given the right weights and prompts, and is a fair peer."""
    expected = reference.segment(IMAGES)
    assert (expected > 0).any()
    plain = reference.classify(IMAGES, np.full_like(expected, NO_REGION))
    assert worst_cosine(plain, reference.classify(IMAGES, expected)) < 0.9999
    (contender,) = baseline_implementations(directory, [way], "cpu")
    peer = contender.load()
    assert not peer.steered
    assert np.abs(peer.segment(IMAGES) - expected).max() < 2e-3
    assert worst_cosine(peer.classify(IMAGES, expected), plain) > 0.99999


@pytest.mark.slow
def test_engines_are_steered_on_every_backend(
    directory: EngineDirectory, reference: Models
) -> None:
    expected = reference.segment(IMAGES)
    contenders = engine_implementations([directory], None, "cpu")
    assert {contender.way for contender in contenders} == {"torch", "onnxruntime", "openvino"}
    for contender in contenders:
        models = contender.load()
        assert models.steered
        assert np.abs(models.segment(IMAGES) - expected).max() < 2e-3, contender
        steered = reference.classify(IMAGES, expected)
        assert worst_cosine(models.classify(IMAGES, expected), steered) > 0.99999, contender
        models.close()
    assert engine_implementations([directory], ("tensorrt",), "cpu") == []


@pytest.mark.slow
def test_half_precision_is_not_exact(directory: EngineDirectory, reference: Models) -> None:
    (contender,) = baseline_implementations(directory, ["autocast"], "cpu")
    assert contender.precision == "bf16"
    if emulates_half("cpu"):
        with pytest.raises(InputError, match="which PyTorch would emulate"):
            contender.load()
        return
    plain = reference.classify(IMAGES, np.full_like(reference.segment(IMAGES), NO_REGION))
    cosine = worst_cosine(contender.load().classify(IMAGES, plain), plain)
    assert 0.99 < cosine < 0.999999


@pytest.mark.slow
def test_a_row_a_contender_and_job(directory: EngineDirectory) -> None:
    said: list[str] = []
    rows = list(models_part(request_for(directory, said.append)))
    names = [BASELINES["upstream"], "medfocus, onnxruntime"]
    assert [(row.what, row.contender) for row in rows] == [
        (job.what, name) for job in JOBS for name in names
    ]
    assert {f"{job.what}, batch 3" for job in JOBS} <= {*said}
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
        ours = row.contender != BASELINES["upstream"]
        assert row.peer == (f"{BASELINES['upstream']}, fp32" if ours else "")
        assert (row.ratio is not None) == ours
        assert row.noise is not None
    upstream, engine = (row.peak_memory for row in rows if row.what == "both models")
    assert upstream is not None
    assert engine is not None
    assert upstream > engine + 100  # who loads PyTorch, and who does not


def test_who_cannot_be_loaded_has_a_row_and_the_others_go_on(
    directory: EngineDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, in its own process or in ours."""
    answer = np.ones((3, 128), np.float32)

    def alone(contender: Implementation, images: object) -> Alone:
        return Alone(1.0, 1.0, 100.0, False, answer)

    def load(self: Implementation) -> Models:
        if self.way == "upstream":
            raise OSError("libsomething.so is missing\nand more")
        masks = np.zeros((3, 64, 64), np.float32)
        return Models(lambda _: masks, lambda images, _: answer, steered=True)

    monkeypatch.setattr(module, "alone", alone)
    monkeypatch.setattr(Implementation, "load", load)
    rows = list(models_part(request_for(directory, lambda what: None)))
    assert rows[0].status == "OSError: libsomething.so is missing"
    assert rows[0].contender == BASELINES["upstream"]
    assert [row.what for row in rows[1:]] == [job.what for job in JOBS]
    assert all(row.measured for row in rows[1:])
    entrant = module.enter(
        replace(engine_implementations([directory], ("torch",), "cpu")[0]), IMAGES, (1, 3)
    )
    assert entrant.peak_memory == {1: 100.0, 3: 100.0}


def test_peers_know_no_visual_prompts(directory: EngineDirectory, tmp_path: Path) -> None:
    tensors = load_tensors(directory, CLASSIFIER_WEIGHTS)
    prompts = np.zeros((2, 4, 128), np.float32)
    shutil.copy(directory.file(SEGMENTER_WEIGHTS), tmp_path)
    shutil.copy(directory.file(HEAD_WEIGHTS), tmp_path)
    save_file({**tensors, "prompts": prompts}, tmp_path / CLASSIFIER_WEIGHTS)
    write_manifest(tmp_path, replace(directory.manifest, backends={"torch": "fp32"}))
    prompted = read_engine_directory(tmp_path)
    for contender in baseline_implementations(prompted, ["upstream", "transformers"], "cpu"):
        with pytest.raises(InputError, match="has visual prompts"):
            contender.load()


def test_who_fails_at_one_job_costs_no_other(directory: EngineDirectory) -> None:
    def answer(images: Sequence[SourceImage], *_: object) -> np.ndarray:
        return np.ones((len(images), 4), np.float32)

    def fail(*_: object) -> np.ndarray:
        raise RuntimeError("out of memory")

    (job,) = (job for job in JOBS if job.what == "both models")
    request = request_for(directory, lambda what: None)
    good, bad = (Models(segment, answer, steered=True) for segment in (answer, fail))
    contenders = request.contenders
    entrants = [Entrant(contenders[0], bad, {}), Entrant(contenders[1], good, {})]
    images = phantoms(2)
    failed, row = job_rows(job, entrants, good, images, request, lambda precision: None)
    assert (failed.contender, failed.status) == (contenders[0].name, "RuntimeError: out of memory")
    assert (row.contender, row.measured, row.peer) == (contenders[1].name, True, "")


def test_agreement_by_hand() -> None:
    one = np.full((2, 2, 2), -1.0, np.float32)
    other = one.copy()
    assert mask_iou(one, other) == 1.0  # nothing found by either
    one[0, 0] = 1.0
    other[0, :, 0] = 1.0
    assert mask_iou(one, other) == pytest.approx((1 / 3 + 1) / 2)
    found = np.array([[3.0, 0.0], [1.0, 1.0]], np.float32)
    assert worst_cosine(found, np.array([[1.0, 0.0], [0.0, 5.0]], np.float32)) == pytest.approx(
        0.5**0.5
    )
