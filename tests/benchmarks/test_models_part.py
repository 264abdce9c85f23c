"""Both models beside upstream's own code on the engine's weights: the same answers, a row each."""

from pathlib import Path

import numpy as np
import pytest

from medfocus.benchmarks.agreement import mask_iou, worst_cosine
from medfocus.benchmarks.model_contenders import (
    UPSTREAM,
    Models,
    engine_models,
    reference_models,
    upstream_models,
)
from medfocus.benchmarks.models_part import JOBS, model_rows
from medfocus.engine.artifact import EngineDirectory, read_engine_directory
from medfocus.engine.prepare import NO_REGION
from medfocus.export.check_images import phantoms
from tests.benchmarks.bench_rows import HERE

IMAGES = phantoms(3)


@pytest.fixture(scope="module")
def directory(exported_engine: Path) -> EngineDirectory:
    return read_engine_directory(exported_engine)


@pytest.fixture(scope="module")
def contenders(directory: EngineDirectory) -> dict[str, Models]:
    engines = [engine_models(directory, name, "cpu") for name in ("onnxruntime", "torch")]
    found = [reference_models(directory), upstream_models(directory, "cpu"), *engines]
    return {models.name: models for models in found}


@pytest.mark.slow
def test_upstream_answers_as_the_engine_does(contenders: dict[str, Models]) -> None:
    """Which shows that it was given the right weights and prompts, and is a fair peer."""
    reference = contenders["reference"]
    expected = reference.segment(IMAGES)
    assert (expected > 0).any()
    plain = reference.classify(IMAGES, np.full_like(expected, NO_REGION))
    steered = reference.classify(IMAGES, expected)
    assert worst_cosine(plain, steered) < 0.9999
    for name, models in contenders.items():
        assert np.abs(models.segment(IMAGES) - expected).max() < 2e-3, name
        right = steered if models.steered else plain
        assert worst_cosine(models.classify(IMAGES, expected), right) > 0.99999, name
    assert not contenders[UPSTREAM].steered


@pytest.mark.slow
def test_half_precision_is_not_exact(directory: EngineDirectory) -> None:
    half = upstream_models(directory, "cpu", "bf16")
    reference = reference_models(directory)
    plain = reference.classify(IMAGES, np.full_like(reference.segment(IMAGES), NO_REGION))
    cosine = worst_cosine(half.classify(IMAGES, plain), plain)
    assert 0.99 < cosine < 0.999999


@pytest.mark.slow
def test_a_row_a_contender_and_job(contenders: dict[str, Models]) -> None:
    said: list[str] = []
    entrants = [contenders[UPSTREAM], contenders["medfocus, onnxruntime"]]
    rows = list(model_rows(entrants, contenders["reference"], IMAGES, 0.1, HERE, said.append))
    assert [(row.what, row.contender) for row in rows] == [
        (job.what, models.name) for job in JOBS for models in entrants
    ]
    assert {*said} == {job.what for job in JOBS}
    for row in rows:
        assert row.batch == 3
        assert row.rounds == 6
        assert row.p50_ms is not None
        assert row.images_per_second == pytest.approx(3e3 / row.p50_ms)
        assert row.p95_ms is not None
        assert row.p95_ms >= row.p50_ms
        assert row.accuracy == pytest.approx(1.0, abs=1e-4)
        assert row.accuracy_of == ("IoU" if row.what == "segmenter" else "cosine")
        ours = row.contender != UPSTREAM
        assert row.peer == (f"{UPSTREAM}, fp32" if ours else "")
        assert (row.ratio is not None) == ours
        assert row.noise is not None


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
