"""The part `scaling` on a small engine, and concurrent callers of a simulated one."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medfocus.benchmarks.baselines.implementations import BASELINES, Implementation
from medfocus.benchmarks.bench.parts import scaling as scaling_part_module
from medfocus.benchmarks.bench.parts.scaling import CALLERS, CLASSES, PROMPTS, SIDES, scaling_part
from medfocus.benchmarks.bench.timing.cold_start import ColdStart
from medfocus.benchmarks.bench.timing.concurrent_callers import call
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.io.images import SourceImage
from tests.benchmarks.bench.rows import options_for


@pytest.mark.long
def test_every_sweep_is_there_and_right(
    exported_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(_: Implementation, images: Sequence[SourceImage]) -> ColdStart:
        return ColdStart(0.0, 0.0, 100.0 * len(images), True, np.zeros(0, np.float32))

    monkeypatch.setattr(scaling_part_module, "cold_start", memory)
    directory = read_engine_directory(exported_engine)
    rows = list(scaling_part(options_for(directory, backends=("torch",), seconds=0.2)))
    assert all(row.measured for row in rows)
    assert all(row.accuracy == pytest.approx(1, abs=1e-4) for row in rows)
    upstream = [row for row in rows if row.implementation == BASELINES["upstream"]]
    assert [(row.what, row.batch) for row in upstream if not row.setting] == [
        ("both models", size) for size in (1, 2, 4)
    ]
    assert [row.peak_memory for row in upstream] == [100, 200, 400, *len(SIDES) * [None]]
    ours = [row for row in rows if row.implementation == "medfocus, torch"]
    assert [row.setting for row in ours[len(upstream) :]] == [
        *(f"{count} prompts" for count in PROMPTS),
        *(f"{kept / 14:.0%} of the patches kept" for kept in (1, 4, 8, 14)),  # nearest to SHARES
        *(f"{count:,} classes" for count in CLASSES),
        *(f"{callers} callers" for callers in CALLERS),
    ]
    assert len({row.key for row in rows}) == len(rows)


class Engine:
    """Each thread's first call waits for those of all callers; what it answers is the image."""

    def __init__(self, callers: int) -> None:
        self._together = threading.Barrier(callers, timeout=120)
        self._met = threading.local()

    def classify(self, batch: list[Any]) -> list[Any]:
        if not hasattr(self._met, "once"):
            self._met.once = self._together.wait()
        if batch[0] == "broken":
            raise ValueError(batch[0])
        time.sleep(0.01)
        return [SimpleNamespace(label=batch[0])]


def test_callers_share_an_engine_and_count_right_answers() -> None:
    images: Any = ["right", "wrong"]
    engine: Any = Engine(callers=4)
    judged: list[bool] = []

    def right(index: int, answer: Any) -> bool:
        assert answer.label == images[index]
        judged.append(answer.label == "right")
        return judged[-1]

    found = call(engine, images, right, 4, 0.5)
    assert found["rounds"] == len(found["times_ms"]) == len(judged) >= 4
    assert 10 <= found["p50_ms"] <= found["p95_ms"]
    assert found["accuracy"] == sum(judged) / len(judged)


def test_a_callers_error_ends_all() -> None:
    images: Any = ["right", "broken"]
    engine: Any = Engine(callers=4)
    with pytest.raises(ValueError, match="broken"):  # long before the hour is over
        call(engine, images, lambda index, answer: True, 4, 3600.0)
