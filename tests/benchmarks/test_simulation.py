"""What the simulated stream is fed with, and what the bench's self-check plants."""

import time

import pytest

from medfocus.benchmarks import self_check
from medfocus.benchmarks.queueing import StageTimes
from medfocus.benchmarks.simulation import _stage_times
from medfocus.engine.stats import Span


def test_stage_times_are_an_images() -> None:
    spans = [
        Span("read", "host_0", 0.0, 0.25),
        Span("read", "host_1", 0.0, 0.5),
        Span("prepare", "host_0", 1.0, 1.125, batch=0, slot=0),
        Span("segment", "segment", 2.0, 4.0, 0.5, 4, 0, 0),
        Span("classify", "classify", 4.0, 5.0, 0.0, 4, 0, 0),
        Span("answer", "answer", 5.0, 5.5, 0.0, 4, 0, 0),
    ]
    assert _stage_times(spans) == StageTimes([0.25, 0.5], [0.125], [0.5], [0.25])


def test_the_planted_slow_down_is_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 1e-6
        return now[0]

    def run() -> None:
        now[0] += 2.0

    monkeypatch.setattr(time, "perf_counter", tick)
    self_check._slower(run)
    assert now[0] == pytest.approx(2.2, abs=1e-4)
