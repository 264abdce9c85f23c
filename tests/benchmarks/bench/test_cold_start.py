"""Contenders in processes of their own: what is measured, and what is said of one that fails."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfocus.benchmarks.baselines.engine_models import reference_models
from medfocus.benchmarks.baselines.implementations import Implementation, engine_implementations
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import startup as module
from medfocus.benchmarks.bench.parts.startup import FIRST, LOADING, startup_part
from medfocus.benchmarks.bench.timing.cold_start import Alone, alone
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.errors import InputError
from medfocus.export.validate.images import phantoms
from tests.benchmarks.bench.rows import HERE

IMAGES = phantoms(2)


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_answer(exported_engine: Path) -> None:
    directory = read_engine_directory(exported_engine)
    (contender,) = engine_implementations([directory], ("onnxruntime",), "cpu")
    found = alone(contender, IMAGES)
    reference = reference_models(directory)
    expected = reference.classify(IMAGES, reference.segment(IMAGES))
    assert np.abs(found.embedding - expected).max() < 1e-4
    assert found.steered
    assert 0.1 < found.loaded < 60
    assert 0 < found.answered < 60
    assert 50 < found.peak_memory < 500  # a process with PyTorch in it takes more


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    contender = Implementation("medfocus, torch", "fp32", "torch", tmp_path / "none", "cpu")
    with pytest.raises(InputError, match=r"none: is not an engine directory\. Give a"):
        alone(contender, IMAGES)


def test_startup_takes_turns_and_compares(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer takes twice as long to load; a second backend cannot be started."""
    directory = read_engine_directory(engine_directory)
    ours = Implementation("medfocus, torch", "fp32", "torch", engine_directory, "cpu")
    peer = replace(ours, name="peer", way="upstream")
    broken = replace(ours, name="broken", way="openvino")
    reference = reference_models(directory)
    logits = reference.segment(phantoms(1))
    answers = {
        "torch": reference.classify(phantoms(1), logits),
        "upstream": reference.classify(phantoms(1), 0 * logits - 32),
    }
    started: list[str] = []

    def start(contender: Implementation, images: object) -> Alone:
        started.append(contender.name)
        if contender.way == "openvino":
            raise InputError("broken", "failed: no such library", "install it")
        steered = contender.way == "torch"
        seconds = (1.0, 0.5) if steered else (2.0, 0.5)
        return Alone(*seconds, 300.0, steered, answers[contender.way])

    ticks = iter([0.0, 1.0])
    monkeypatch.setattr(module, "alone", start)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(BenchOptions, "contenders", [peer, ours, broken])
    request = BenchOptions(
        engines=(directory,),
        backends=None,
        peers=("upstream",),
        device="cpu",
        batches=(1,),
        images=1,
        seconds=8.0,
        environment=HERE,
        say=lambda what: None,
    )
    rows = list(startup_part(request))
    assert started.count("peer") == started.count("medfocus, torch") == 1 + 8  # the first is cold
    assert started.count("broken") == 1
    assert "no such library" in rows[0].status
    found = {(row.what, row.contender): row for row in rows[1:]}
    loaded = found[LOADING, "medfocus, torch"]
    assert (loaded.p50_ms, loaded.rounds, loaded.peer) == (1000.0, 8, "peer, fp32")
    assert loaded.ratio == pytest.approx((2, 2, 2))
    assert found[LOADING, "peer"].ratio is None
    for name in ("peer", "medfocus, torch"):
        row = found[FIRST, name]
        assert row.accuracy == pytest.approx(1)
        assert row.peak_memory == 300
