"""The part `scaling` on a small engine, and callers on a make-believe one."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medfocus.benchmarks.baselines.implementations import BASELINES, Implementation
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import scaling as scaling_part_module
from medfocus.benchmarks.bench.parts.scaling import CALLERS, CLASSES, PROMPTS, SIDES, scaling_part
from medfocus.benchmarks.bench.timing.cold_start import Alone
from medfocus.benchmarks.bench.timing.concurrent_callers import call
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.io.images import SourceImage
from medfocus.export.validate.images import phantoms
from tests.benchmarks.bench.rows import HERE


@pytest.mark.slow
def test_every_sweep_is_there_and_right(
    exported_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(_: Implementation, images: Sequence[SourceImage]) -> Alone:
        return Alone(0.0, 0.0, 100.0 * len(images), True, np.zeros(0))

    monkeypatch.setattr(scaling_part_module, "alone", memory)
    directory = read_engine_directory(exported_engine)
    request = BenchOptions(
        engines=(directory,),
        backends=("torch",),
        peers=("upstream",),
        device="cpu",
        batches=(1,),
        images=1,
        seconds=0.2,
        environment=HERE,
        say=lambda what: None,
    )
    rows = list(scaling_part(request))
    assert all(row.measured for row in rows)
    assert all(row.accuracy == pytest.approx(1, abs=1e-4) for row in rows)
    peer = [row for row in rows if row.contender == BASELINES["upstream"]]
    assert [(row.what, row.batch) for row in peer if not row.setting] == [
        ("both models", size) for size in (1, 2, 4)
    ]
    assert [row.peak_memory for row in peer] == [100, 200, 400, *len(SIDES) * [None]]
    assert len(peer) == 3 + len(SIDES)
    ours = [row for row in rows if row.contender == "medfocus, torch"]
    assert [row.setting for row in ours[len(peer) :]] == [
        *(f"{count} prompts" for count in PROMPTS),
        *(f"{kept / 14:.0%} of the patches kept" for kept in (1, 4, 8, 14)),  # nearest to SHARES
        *(f"{count:,} classes" for count in CLASSES),
        *(f"{callers} callers" for callers in CALLERS),
    ]
    assert len({row.key for row in rows}) == len(rows)


def test_callers_share_an_engine_and_count_right_answers() -> None:
    """Each call takes 10 ms; every second image is answered wrongly."""

    class Engine:
        def classify(self, batch: list[Any]) -> list[Any]:
            time.sleep(0.01)
            return [SimpleNamespace(label="right" if batch[0] is images[0].pixels else "wrong")]

    images = phantoms(2)
    found = call(Engine(), images, ["right", "right"], 4, 0.5)  # type: ignore[arg-type]
    assert found["rounds"] == len(found["times_ms"])
    assert 10 <= found["p50_ms"] <= found["p95_ms"]
    assert found["images_per_second"] > 150  # one caller alone gets 100 at most
    assert found["accuracy"] == pytest.approx(0.5, abs=0.2)
