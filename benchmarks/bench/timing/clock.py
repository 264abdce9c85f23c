"""Times of several functions taken in turns, so that a ratio compares one moment with itself."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, combinations_with_replacement
from typing import Any, NamedTuple, Protocol


class Event(Protocol):
    """A moment on the device, as `torch.cuda.Event` has it."""

    def record(self) -> Any:
        """Mark the moment that all work before it is done."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this moment to a later one."""


class HostEvent:
    """A moment on the host: for work that is done when its call returns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        """See `Event`."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, end_event: "HostEvent") -> float:
        """See `Event`."""
        return 1e3 * (end_event.seconds - self.seconds)


class Ratio(NamedTuple):
    """Of two functions' times, taken round by round.

    Attributes:
        median: over the rounds and their pairs.
        low, high: a 95% confidence interval of it.
    """

    median: float
    low: float
    high: float


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above` over `below`, a number a round in each.

    The median of all pairs' geometric means (Hodges and Lehmann, Annals of Mathematical Statistics
    34, 1963) with the interval of Wilcoxon's signed ranks. Both want ratios that are as often above
    the true one as below by the same factor: two functions on one machine are disturbed alike. In
    noise without outliers it does with two thirds of the rounds that the plain median needs.
    """
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    pairs = sorted((one + other) / 2 for one, other in combinations_with_replacement(logs, 2))
    first = _first_inside(len(logs))
    middle, low, high = statistics.median(pairs), pairs[first], pairs[-1 - first]
    return Ratio(math.exp(middle), math.exp(low), math.exp(high))


@cache
def _first_inside(rounds: int) -> int:
    """Which of the ordered pairs the 95% interval begins with.

    A sum of signed ranks that chance goes below in 2.5% of all signs at most lies outside.
    """
    ways = [1]  # of signs, by the sum of the positive ranks
    for rank in range(1, rounds + 1):
        ways = [sum(both) for both in zip(ways + rank * [0], rank * [0] + ways, strict=True)]
    refused = sum(40 * below <= 1 << rounds for below in accumulate(ways))
    return max(0, refused - 1)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all lie below, between neighbours linearly."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def turns(names: Sequence[str], rounds: int) -> list[list[str]]:
    """The order of each round, by chance, the same in every run.

    With everyone's place shifted by one a round, all would have the same neighbours throughout: who
    comes after itself finds its own data in the caches, and who comes after another runtime its
    threads still waiting.
    """
    chance = random.Random(0)
    return [chance.sample(names, len(names)) for _ in range(rounds)]


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] | None = None,
    event: Callable[[], Event] = HostEvent,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time functions in turns.

    Args:
        runs: by name; each does its work, or enqueues it on a device.
        rounds: how often each one runs.
        before: called before each run, outside the time that is taken.
        event: makes a moment, on the host where nothing else is said.
        wait: until the device is done, where there is one.

    Returns:
        Seconds of each run, by name and round.
    """
    moments: dict[str, list[tuple[Event, Event]]] = {name: [] for name in runs}
    for order in turns(list(runs), rounds):
        for name in order:
            start, end = event(), event()
            if before is not None:
                before()
            start.record()
            runs[name]()
            end.record()
            moments[name].append((start, end))
        wait()
    return {
        name: [start.elapsed_time(end) / 1e3 for start, end in pairs]
        for name, pairs in moments.items()
    }
