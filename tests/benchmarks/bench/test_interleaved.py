"""Contenders in turns: who runs when, for how long, and what a ratio means."""

import time

import pytest

from medfocus.benchmarks.bench.timing import interleaved as module
from medfocus.benchmarks.bench.timing.clock import HostEvent
from medfocus.benchmarks.bench.timing.interleaved import ROUNDS, race


class Clock:
    """Time that passes only while somebody works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self.pause)

    def pause(self, seconds: float) -> None:
        self.ran.append("pause")
        self.now += seconds

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
    assert found["ours"].ratio == pytest.approx((4, 4, 4))
    for same in (found["peer"].ratio, found["peer"].noise, found["ours"].noise):
        assert same == pytest.approx((1, 1, 1))
    assert found["ours"].median == pytest.approx(0.5)
    assert found["ours"].figures(4, "peer") == {
        "rounds": len(found["ours"].times),
        "images_per_second": pytest.approx(8),
        "p50_ms": pytest.approx(500),
        "p95_ms": pytest.approx(500),
        "times_ms": pytest.approx((500.0,) * len(found["ours"].times)),
        "peer": "peer",
        "ratio": pytest.approx((4, 4, 4)),
        "noise": pytest.approx((1, 1, 1)),
    }
    assert found["peer"].figures(4, "")["ratio"] is None
    assert 50 <= clock.now <= 65
    assert clock.ran.count("peer") == 2 * (1 + len(found["ours"].times))
    assert clock.ran[4] == clock.ran[6] == "pause"
    assert clock.ran[5] in ("peer", "ours")


def test_ratios_are_of_images_where_runs_differ(clock: Clock) -> None:
    runs = {"peer": lambda: clock.work("peer", 2.0), "ours": lambda: clock.work("ours", 0.5)}
    found = race(runs, "peer", seconds=60, images={"peer": 20, "ours": 10})
    assert found["ours"].ratio == pytest.approx((2, 2, 2))
    assert found["ours"].median == pytest.approx(0.5)
    for same in (found["peer"].ratio, found["peer"].noise, found["ours"].noise):
        assert same == pytest.approx((1, 1, 1))


def test_too_little_time_is_overdrawn_and_much_is_not_used_up(clock: Clock) -> None:
    slow = race({"peer": lambda: clock.work("peer", 100.0)}, "peer", seconds=1)
    assert len(slow["peer"].times) == ROUNDS[0]
    assert clock.ran.count("peer") == 1 + 2 * ROUNDS[0]  # warmed up once, and twice a round
    fast = race({"other": lambda: clock.work("other", 1e-3)}, "other", seconds=1e6)
    assert len(fast["other"].times) == ROUNDS[1]


def test_a_turn_holds_as_many_runs_as_take_a_tenth_of_a_second(clock: Clock) -> None:
    runs = {"slow": lambda: clock.work("slow", 0.3), "fast": lambda: clock.work("fast", 0.02)}
    found = race(runs, "slow", seconds=1)
    assert clock.ran.count("fast") == 2 + 5 * ROUNDS[0]
    assert found["fast"].times == pytest.approx([0.02] * ROUNDS[0])
    assert found["fast"].ratio.median == pytest.approx(15)


def test_a_moment_on_the_host() -> None:
    first, second = HostEvent(), HostEvent()
    first.record()
    second.record()
    assert 0 <= first.elapsed_time(second) < 1e3
