"""Interleaved timing: the order, for how long, and what a ratio and its interval mean."""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medfocus.benchmarks.bench.timing.clock import interleave, ratio, shuffled_rounds
from medfocus.benchmarks.bench.timing.interleaved import ROUNDS, time_interleaved


class Clock:
    """Time that passes only while something runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.pause)

    def pause(self, seconds: float) -> None:
        self.ran.append("pause")
        self.now += seconds

    def work(self, name: str, seconds: float) -> None:
        self.ran.append(name)
        self.now += seconds * (3 if self.ran.count(name) == 1 else 1)  # the first takes longer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_ratios_are_of_speeds(clock: Clock) -> None:
    runs = {"base": lambda: clock.work("base", 2.0), "ours": lambda: clock.work("ours", 0.5)}
    found = time_interleaved(runs, "base", seconds=60)
    assert list(found) == ["base", "ours"]
    assert found["ours"].ratio == pytest.approx((4, 4, 4))
    for same in (found["base"].ratio, found["base"].noise, found["ours"].noise):
        assert same == pytest.approx((1, 1, 1))
    assert found["ours"].median == pytest.approx(0.5)
    assert found["ours"].figures(4, "base") == {
        "rounds": len(found["ours"].times),
        "images_per_second": pytest.approx(8),
        "p50_ms": pytest.approx(500),
        "p95_ms": pytest.approx(500),
        "times_ms": pytest.approx((500.0,) * len(found["ours"].times)),
        "baseline": "base",
        "ratio": pytest.approx((4, 4, 4)),
        "noise": pytest.approx((1, 1, 1)),
    }
    assert found["base"].figures(4, "")["ratio"] is None
    assert 50 <= clock.now <= 65
    assert clock.ran.count("base") == 2 * (1 + len(found["ours"].times))
    assert clock.ran[4] == clock.ran[6] == "pause"
    assert clock.ran[5] in ("base", "ours")
    found = time_interleaved(runs, "base", seconds=60, images={"base": 20, "ours": 10})
    assert found["ours"].ratio == pytest.approx((2, 2, 2))  # of images
    assert found["ours"].median == pytest.approx(0.5)


def test_the_number_of_rounds_is_limited(clock: Clock) -> None:
    slow = time_interleaved({"base": lambda: clock.work("base", 100.0)}, "base", seconds=1)
    assert len(slow["base"].times) == ROUNDS[0]
    assert clock.ran.count("base") == 1 + 2 * ROUNDS[0]  # one warm-up, and twice per round
    fast = time_interleaved({"other": lambda: clock.work("other", 1e-3)}, "other", seconds=1e6)
    assert len(fast["other"].times) == ROUNDS[1]


def test_a_turn_is_as_many_calls_as_take_a_tenth_of_a_second(clock: Clock) -> None:
    runs = {"slow": lambda: clock.work("slow", 0.3), "fast": lambda: clock.work("fast", 0.02)}
    found = time_interleaved(runs, "slow", seconds=1)
    assert clock.ran.count("fast") == 2 + 5 * ROUNDS[0]
    assert found["fast"].times == pytest.approx([0.02] * ROUNDS[0])
    assert found["fast"].ratio.median == pytest.approx(15)


def test_what_runs_before_is_not_timed(clock: Clock) -> None:
    runs = {"a": lambda: clock.work("a", 1.0), "b": lambda: clock.work("b", 2.0)}
    times = interleave(runs, 3, lambda: clock.pause(50.0))
    assert {name: sorted(each) for name, each in times.items()} == {
        "a": pytest.approx([1, 1, 3]),
        "b": pytest.approx([2, 2, 6]),
    }


def test_every_order_is_as_frequent_as_others() -> None:
    orders = shuffled_rounds(["a", "b", "c"], 600)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert len(followers) == 6
    assert all(count == pytest.approx(200, abs=50) for count in followers.values())
    assert orders[:6] == shuffled_rounds(["a", "b", "c"], 6)


def test_a_ratios_interval_is_that_of_scipys_signed_ranks() -> None:
    """Exactly the ratios that Wilcoxon's test does not reject lie in the interval."""
    random = np.random.default_rng(2)
    above, below = random.lognormal(0.2, 0.1, 20), random.lognormal(0, 0.1, 20)
    found = ratio(list(above), list(below))
    for edge in (found.low, found.high):
        rejected = [
            wilcoxon(np.log(above / below / (edge * slip))).pvalue < 0.05 for slip in (0.999, 1.001)
        ]
        assert sorted(rejected) == [False, True]
    assert ratio(list(3 * above), list(above)).inverse() == pytest.approx((1 / 3,) * 3)
    logs = np.log(above / below)
    means = [(logs[i] + logs[j]) / 2 for i in range(20) for j in range(i, 20)]
    assert found.median == pytest.approx(np.exp(np.median(means)))


@pytest.mark.parametrize("rounds", [6, 9, 30])
def test_the_interval_holds_the_true_ratio_nineteen_times_in_twenty(rounds: int) -> None:
    """On a drifting machine, for as few rounds as are ever run."""
    random = np.random.default_rng(rounds)
    held = 0
    for _ in range(1000):
        drift = np.exp(np.cumsum(random.normal(0, 0.05, rounds)))
        ours, theirs = (list(drift * random.lognormal(0, 0.05, rounds)) for _ in range(2))
        low, high = ratio(ours, theirs)[1:]
        held += low <= 1 <= high
    assert held >= 935
