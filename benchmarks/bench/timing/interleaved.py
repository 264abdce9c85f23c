"""Implementations timed in turns until the time is used up."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from medfocus.benchmarks.bench.timing.clock import Ratio, interleave, ratio

ROUNDS = (6, 100)  # at least: fewer give no 95% interval; and at most
TURN, MAX_CALLS = 0.1, 1000  # seconds of a turn; calls in it at most
LONG = 60  # seconds of a call whose first-time work hardly counts
PAUSE = 0.02  # seconds
AGAIN = "\0again"  # the baseline, timed twice


class Timed(NamedTuple):
    """One implementation's times.

    Attributes:
        times: seconds of a call, by round.
        ratio: of its speed in images per second to the baseline's.
        noise: of the baseline's speed to itself.
    """

    times: list[float]
    ratio: Ratio
    noise: Ratio

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.times))

    def figures(self, images: int, baseline: str) -> dict[str, Any]:
        """Fields of a `BenchRow`, for `images` per call; `baseline` is empty for itself."""
        return {
            "rounds": len(self.times),
            "images_per_second": images / self.median,
            "p50_ms": 1e3 * self.median,
            "p95_ms": 1e3 * float(np.quantile(self.times, 0.95)),
            "times_ms": tuple(1e3 * seconds for seconds in self.times),
            "baseline": baseline,
            "ratio": self.ratio if baseline else None,
            "noise": self.noise,
        }


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    baseline: str,
    seconds: float,
    images: Mapping[str, int] | None = None,
) -> dict[str, Timed]:
    """Time implementations in turns, the baseline twice in each round.

    A turn is as many calls as take about a tenth of a second. It begins after a pause in which
    the previous runtime's threads stop spinning.

    Args:
        runs: by name; each has done its work when it returns.
        baseline: what the ratios are to.
        seconds: about how long to measure, warm-up included; at least six rounds are run.
        images: per call, by name, where they differ.
    """
    began = time.monotonic()
    took = {name: _call_seconds(run) for name, run in runs.items()}
    runs_twice, took = {**runs, AGAIN: runs[baseline]}, {**took, AGAIN: took[baseline]}
    calls = {name: max(1, round(TURN / each)) for name, each in took.items()}
    round_seconds = sum(PAUSE + calls[name] * each for name, each in took.items())
    rounds = round((seconds - (time.monotonic() - began)) / round_seconds)
    turns = interleave(
        {name: partial(_repeat, run, calls[name]) for name, run in runs_twice.items()},
        max(ROUNDS[0], min(ROUNDS[1], rounds)),
        partial(time.sleep, PAUSE),
    )
    found = {name: [turn / calls[name] for turn in times] for name, times in turns.items()}
    again = found.pop(AGAIN)
    count = images or dict.fromkeys(runs, 1)
    per_image = {name: [each / count[name] for each in times] for name, times in found.items()}
    noise = ratio(found[baseline], again)
    return {
        name: Timed(times, ratio(per_image[baseline], per_image[name]), noise)
        for name, times in found.items()
    }


def _call_seconds(run: Callable[[], object]) -> float:
    """About how long one call takes."""
    for _ in range(2):  # the first includes what is done once
        began = time.perf_counter()
        run()
        took = time.perf_counter() - began
        if took > LONG:
            break
    return max(took, TURN / MAX_CALLS)


def _repeat(run: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        run()
