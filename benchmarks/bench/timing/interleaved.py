"""Contenders at one job, in turns, until the time is used up."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from medfocus.benchmarks.bench.timing.clock import Ratio, interleave, quantile, ratio

ROUNDS = (6, 100)  # at least: fewer give no 95% interval; and at most
TURN, MOST = 0.1, 1000  # seconds of a turn; runs in it at most
LONG = 60  # seconds of a run in which what is lazy counts for little
PAUSE = 0.02  # seconds
AGAIN = "\0again"  # the peer once more


class Timed(NamedTuple):
    """One contender's times.

    Attributes:
        times: seconds of a run, by round.
        ratio: of its speed in images a second to the peer's, round by round.
        noise: of the peer's speed to itself.
    """

    times: list[float]
    ratio: Ratio
    noise: Ratio

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return quantile(self.times, 0.5)

    def figures(self, images: int, peer: str) -> dict[str, Any]:
        """Fields of a `Row`.

        Args:
            images: of a run.
            peer: whom the ratio is against; empty where that is this one itself.
        """
        return {
            "rounds": len(self.times),
            "images_per_second": images / self.median,
            "p50_ms": 1e3 * self.median,
            "p95_ms": 1e3 * quantile(self.times, 0.95),
            "times_ms": tuple(1e3 * seconds for seconds in self.times),
            "peer": peer,
            "ratio": self.ratio if peer else None,
            "noise": self.noise,
        }


def race(
    runs: Mapping[str, Callable[[], object]],
    peer: str,
    seconds: float,
    images: Mapping[str, int] | None = None,
) -> dict[str, Timed]:
    """Time contenders in turns, the peer twice.

    In its turn a contender runs as often as takes about a tenth of a second, after a pause in which
    the threads of the one before stop waiting for more work: runtimes let theirs spin.

    Args:
        runs: by name; each has done its work when it returns.
        peer: whom the ratios are against.
        seconds: about how long it may take, warm-up included; six rounds are always taken.
        images: of a run, by name, where they differ.
    """
    began = time.monotonic()
    each = {name: _seconds(run) for name, run in runs.items()}
    entrants, each = {**runs, AGAIN: runs[peer]}, {**each, AGAIN: each[peer]}
    calls = {name: max(1, round(TURN / took)) for name, took in each.items()}
    rounds = (seconds - (time.monotonic() - began)) / sum(
        PAUSE + calls[name] * took for name, took in each.items()
    )
    turns = interleave(
        {name: partial(_repeat, run, calls[name]) for name, run in entrants.items()},
        max(ROUNDS[0], min(ROUNDS[1], round(rounds))),
        partial(time.sleep, PAUSE),
    )
    found = {name: [turn / calls[name] for turn in times] for name, times in turns.items()}
    again = found.pop(AGAIN)
    count = images or dict.fromkeys(runs, 1)
    image = {name: [took / count[name] for took in times] for name, times in found.items()}
    noise = ratio(found[peer], again)
    return {
        name: Timed(times, ratio(image[peer], image[name]), noise) for name, times in found.items()
    }


def _seconds(run: Callable[[], object]) -> float:
    """About how long one run takes."""
    for _ in range(2):  # the first is dearer: what is lazy is made in it
        began = time.perf_counter()
        run()
        took = time.perf_counter() - began
        if took > LONG:
            break
    return max(took, TURN / MOST)


def _repeat(run: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        run()
