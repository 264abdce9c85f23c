"""Contenders in turns: who runs when, for how long, and what a ratio means."""

import time

import pytest

from medfocus.benchmarks import race as module
from medfocus.benchmarks.race import ROUNDS, race
from medfocus.benchmarks.timing import HostEvent


class Clock:
    """Time that passes only while somebody works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def work(self, name: str, seconds: float) -> None:
        self.ran.append(name)
        self.now += seconds * (3 if self.ran.count(name) == 1 else 1)  # the first is dearer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_ratios_are_of_speeds(clock: Clock) -> None:
    found = race(
        {"peer": lambda: clock.work("peer", 2.0), "ours": lambda: clock.work("ours", 0.5)},
        "peer",
        seconds=60,
    )
    assert list(found) == ["peer", "ours"]
    assert found["ours"].ratio == (4, 4, 4)
    assert found["peer"].ratio == found["peer"].noise == found["ours"].noise == (1, 1, 1)
    assert found["ours"].median == pytest.approx(0.5)
    assert found["ours"].p95 == pytest.approx(0.5)
    assert 50 <= clock.now <= 65
    assert clock.ran.count("peer") == 2 + 2 * (1 + found["ours"].rounds) - 1


def test_too_little_time_is_overdrawn_and_much_is_not_used_up(clock: Clock) -> None:
    slow = race({"peer": lambda: clock.work("peer", 100.0)}, "peer", seconds=1)
    assert slow["peer"].rounds == ROUNDS[0]
    fast = race({"other": lambda: clock.work("other", 1e-3)}, "other", seconds=1e6)
    assert fast["other"].rounds == ROUNDS[1]


def test_progress_is_called_before_each_run(clock: Clock) -> None:
    steps: list[int] = []
    found = race(
        {"peer": lambda: clock.work("peer", 1.0)}, "peer", 9, lambda: steps.append(len(clock.ran))
    )
    assert len(steps) == 2 * (1 + found["peer"].rounds)
    assert steps == list(range(1, 1 + len(steps)))


def test_a_moment_on_the_host() -> None:
    first, second = HostEvent(), HostEvent()
    first.record()
    second.record()
    assert 0 <= first.elapsed_time(second) < 1e3
