"""Times on a GPU: its own clock, CUDA graphs, the L2 cache, and what the card does at most."""

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from medfocus.benchmarks.bench.timing.clock import Event, interleave

FLUSH_BYTES = 512 * 2**20  # more than any L2 cache
REPLAY_SECONDS = 1e-3  # a replay with a warm cache holds as many calls as take about this long
WARM_UP = 3


def device_event() -> Event:
    """A moment on the GPU."""
    event: Event = torch.cuda.Event(enable_timing=True)
    return event


def interleave_on_device(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """`interleave` for work that is enqueued on the GPU."""
    return interleave(runs, rounds, before, device_event, torch.cuda.synchronize)


def capture(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """A CUDA graph of some calls; what is returned replays it."""
    side = torch.cuda.Stream()
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
    times = interleave_on_device(
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
