"""Cold starts: what is measured, and what is reported of an implementation that fails."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import Implementation, engine_implementations
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import startup as module
from medfocus.benchmarks.bench.parts.startup import FIRST, LOADING, startup_part
from medfocus.benchmarks.bench.timing.cold_start import ColdStart, cold_start
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.errors import InputError, MedfocusError
from medfocus.export.validate.images import phantoms
from tests.benchmarks.bench.rows import options_for

IMAGES = phantoms(2)


@pytest.mark.slow
def test_another_process_gives_the_same_answer(exported_engine: Path) -> None:
    directory = read_engine_directory(exported_engine)
    (implementation,) = engine_implementations([directory], ("onnxruntime",), "cpu")
    found = cold_start(implementation, IMAGES)
    reference = reference_models(directory)
    expected = reference.classify(IMAGES, reference.segment(IMAGES))
    assert np.abs(found.embedding - expected).max() < 1e-4
    assert found.steered
    assert 0.1 < found.loaded < 60
    assert 0 < found.answered < 60
    assert 50 < found.peak_memory < 500  # a process with PyTorch in it takes more


def test_a_process_that_fails_passes_its_error_on(tmp_path: Path) -> None:
    missing = Implementation("medfocus, torch", "fp32", "torch", tmp_path / "none", "cpu")
    with pytest.raises(MedfocusError) as expected:
        read_engine_directory(tmp_path / "none")
    with pytest.raises(InputError) as caught:
        cold_start(missing, IMAGES)
    assert (caught.value.code, str(caught.value)) == (expected.value.code, str(expected.value))


def test_startup_takes_turns_and_compares(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline takes twice as long to load; a second backend cannot be started."""
    directory = read_engine_directory(engine_directory)
    ours = Implementation("medfocus, torch", "fp32", "torch", engine_directory, "cpu")
    upstream = replace(ours, name="upstream", way="upstream")
    broken = replace(ours, name="broken", way="openvino")
    reference = reference_models(directory)
    logits = reference.segment(phantoms(1))
    answers = {
        "torch": reference.classify(phantoms(1), logits),
        "upstream": reference.classify(phantoms(1), 0 * logits - 32),
    }
    started: list[str] = []

    def start(implementation: Implementation, images: object) -> ColdStart:
        started.append(implementation.name)
        if implementation.way == "openvino":
            raise InputError("broken", "failed: no such library", "install it")
        steered = implementation.way == "torch"
        seconds = (1.0, 0.5) if steered else (2.0, 0.5)
        return ColdStart(*seconds, 300.0, steered, answers[implementation.way])

    ticks = iter([0.0, 1.0])
    monkeypatch.setattr(module, "cold_start", start)
    monkeypatch.setattr(
        "medfocus.benchmarks.bench.parts.startup.time.monotonic", lambda: next(ticks)
    )
    monkeypatch.setattr(BenchOptions, "implementations", [upstream, ours, broken])
    rows = list(startup_part(options_for(directory, seconds=8.0)))
    counts = [started.count(name) for name in ("upstream", "medfocus, torch", "broken")]
    assert counts == [1 + 8, 1 + 8, 1]  # the first start is not counted
    assert "no such library" in rows[0].status
    found = {(row.what, row.implementation): row for row in rows[1:]}
    loaded = found[LOADING, "medfocus, torch"]
    assert (loaded.p50_ms, loaded.rounds, loaded.baseline) == (1000.0, 8, "upstream, fp32")
    assert loaded.ratio == pytest.approx((2, 2, 2))
    assert found[LOADING, "upstream"].ratio is None
    for name in ("upstream", "medfocus, torch"):
        assert found[FIRST, name].accuracy == pytest.approx(1)
        assert found[FIRST, name].peak_memory == 300
