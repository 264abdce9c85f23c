"""Interleaved timing: functions take turns, so that a ratio compares runs under the same load."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, combinations_with_replacement
from typing import NamedTuple


class Ratio(NamedTuple):
    """The ratio of two functions' times or speeds, round by round.

    Attributes:
        median: pseudo-median over the rounds.
        low, high: its 95% confidence interval.
    """

    median: float
    low: float
    high: float

    def inverse(self) -> "Ratio":
        """The other function's over this one's."""
        return Ratio(1 / self.median, 1 / self.high, 1 / self.low)


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above` over `below`, one number per round in each.

    The median of all pairs' geometric means (Hodges and Lehmann, Annals of Mathematical Statistics
    34, 1963) with the interval of Wilcoxon's signed ranks, which scipy.stats tests with but has no
    interval of. Both assume ratios that are equally often above and below the true one by the same
    factor. Without outliers they need two thirds of the rounds that a plain median needs.
    """
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    pairs = sorted((one + other) / 2 for one, other in combinations_with_replacement(logs, 2))
    first = _first_inside(len(logs))
    middle, low, high = statistics.median(pairs), pairs[first], pairs[-1 - first]
    return Ratio(math.exp(middle), math.exp(low), math.exp(high))


@cache
def _first_inside(rounds: int) -> int:
    """Index of the ordered pair at which the 95% interval begins.

    Sums of signed ranks that are exceeded downwards with a probability of at most 2.5% are outside.
    """
    ways = [1]  # number of sign patterns, by the sum of the positive ranks
    for rank in range(1, rounds + 1):
        ways = [sum(both) for both in zip(ways + rank * [0], rank * [0] + ways, strict=True)]
    refused = sum(40 * below <= 1 << rounds for below in accumulate(ways))
    return max(0, refused - 1)


def shuffled_rounds(names: Sequence[str], rounds: int) -> list[list[str]]:
    """The order in each round: random, and the same in every run.

    With a fixed rotation everyone would have the same predecessor in all rounds: after itself a
    function finds its data in the caches, after another runtime that runtime's threads spinning.
    """
    chance = random.Random(0)
    return [chance.sample(names, len(names)) for _ in range(rounds)]


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object]
) -> dict[str, list[float]]:
    """Time functions in turns.

    Args:
        runs: by name; each has done its work when it returns.
        rounds: how often each one runs.
        before: called before each run, not timed.

    Returns:
        Seconds of each run, by name and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for order in shuffled_rounds(list(runs), rounds):
        for name in order:
            before()
            begun = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds
