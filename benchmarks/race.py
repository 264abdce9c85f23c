"""Contenders at one job, in turns, until the time is used up."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from medfocus.benchmarks.timing import Ratio, interleave, quantile, ratio

ROUNDS = (6, 100)  # at least: fewer give no 95% interval; and at most
AGAIN = "\0again"  # the peer once more


class Timed(NamedTuple):
    """One contender's times.

    Attributes:
        rounds: how many.
        median, p95: seconds of one round.
        ratio: of its speed to the peer's, round by round.
        noise: of the peer's speed to itself.
    """

    rounds: int
    median: float
    p95: float
    ratio: Ratio
    noise: Ratio


def race(
    runs: Mapping[str, Callable[[], object]],
    peer: str,
    seconds: float,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Timed]:
    """Time contenders in turns, the peer twice.

    Args:
        runs: by name; each has done its work when it returns.
        peer: whom the ratios are against.
        seconds: about how long it may take, warm-up included; six rounds are always taken.
        advance: called before each run.
    """
    entrants = {**runs, AGAIN: runs[peer]}
    began = time.monotonic()
    for run in runs.values():
        run()
    first = time.monotonic() - began  # dearer than a round: what is lazy is made in it
    began = time.monotonic()
    interleave(entrants, 1, advance)  # tells how long a round takes, and nothing else
    each = time.monotonic() - began
    least, most = ROUNDS
    rounds = round((seconds - first - each) / each) if each else most
    found = interleave(entrants, max(least, min(most, rounds)), advance)
    noise = ratio(found[peer], found[AGAIN])
    return {
        name: Timed(
            len(times),
            quantile(times, 0.5),
            quantile(times, 0.95),
            ratio(found[peer], times),
            noise,
        )
        for name, times in found.items()
        if name != AGAIN
    }
