"""Times of several functions taken in turns, so that a ratio compares one moment with itself."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
        median: over the rounds.
        low, high: a 95% confidence interval of the median.
    """

    median: float
    low: float
    high: float


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above` over `below`, a number a round in each."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    # Distribution-free: the number of rounds below the true median is binomial.
    spread = 1.96 * math.sqrt(len(ratios)) / 2
    first = max(0, math.floor(len(ratios) / 2 - spread))
    last = min(len(ratios) - 1, math.ceil(len(ratios) / 2 + spread) - 1)
    return Ratio(statistics.median(ratios), ratios[first], ratios[last])


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all lie below, between neighbours linearly."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def turns(names: Sequence[str], rounds: int) -> list[list[str]]:
    """The order of each round; everyone stands at each place equally often."""
    return [
        [names[(number + place) % len(names)] for place in range(len(names))]
        for number in range(rounds)
    ]


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
