"""Times of several functions taken in turns, so that a ratio compares one moment with itself."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

FLUSH_BYTES = 512 * 2**20  # more than any L2 cache
REPLAY_SECONDS = 1e-3  # a replay with a warm cache holds as many calls as take about this long
WARM_UP = 3


class Event(Protocol):
    """A moment on the device, as `torch.cuda.Event` has it."""

    def record(self) -> Any:
        """Mark the moment that all work before it is done."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this moment to a later one."""


def device_event() -> Event:
    """A moment on the GPU."""
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event


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
    event: Callable[[], Event] = device_event,
    wait: Callable[[], None] = torch.cuda.synchronize,
) -> dict[str, list[float]]:
    """Time functions in turns.

    Args:
        runs: by name; each enqueues its work on the device.
        rounds: how often each one runs.
        before: enqueued before each run, outside the time that is taken.
        event: makes a moment.
        wait: until the device is done.

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


def capture(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """A CUDA graph of some calls; what is returned replays it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    replay: Callable[[], None] = graph.replay
    return replay


def flusher() -> Callable[[], object]:
    """A function that leaves nothing of earlier tensors in the L2 cache."""
    buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    return buffer.zero_


def calls_a_replay(seconds: float) -> int:
    """How many calls of so many seconds a replay should hold."""
    return max(1, min(100, round(REPLAY_SECONDS / seconds)))


class Ceilings(NamedTuple):
    """What this card does at most, measured.

    Attributes:
        bandwidth: of a large copy, bytes/s, read and written.
        matrix_rate: of a large bfloat16 matrix product, FLOP/s.
    """

    bandwidth: float
    matrix_rate: float


def measure_ceilings() -> Ceilings:
    """A copy of 2 GiB, and a product of 8192 × 8192 matrices."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(left)
    times = interleave(
        {
            "copy": capture(lambda: target.copy_(source), 1),
            "product": capture(lambda: torch.mm(left, right, out=out), 1),
        },
        rounds=30,
    )
    return Ceilings(
        bandwidth=2 * source.numel() / statistics.median(times["copy"]),
        matrix_rate=2 * 8192**3 / statistics.median(times["product"]),
    )


def roofline_seconds(flop: float, size: float, slowdown: int, ceilings: Ceilings) -> float:
    """The least time for `flop` of matrix products and `size` bytes."""
    return max(size / ceilings.bandwidth, flop * slowdown / ceilings.matrix_rate)
