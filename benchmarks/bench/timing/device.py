"""Timing on a GPU: CUDA events and graphs, the L2 cache, and the card's measured peak rates."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from triton.testing import do_bench_cudagraph

from medfocus.benchmarks.bench.timing.clock import shuffled_rounds

FLUSH_BYTES = 512 * 2**20  # more than any L2 cache
REPLAY_SECONDS = 1e-3  # about how long a replay with a warm cache takes
WARM_UP = 3
MEASURED_MS = 50  # of a ceiling


def interleave_on_device(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """As `interleave`, by CUDA events, for functions that enqueue their work on the GPU.

    Triton's `do_bench` times one function after the other; a ratio needs them in turns.
    """
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in runs}
    for order in shuffled_rounds(list(runs), rounds):
        for name in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if before is not None:
                before()
            start.record()
            runs[name]()
            end.record()
            events[name].append((start, end))
        torch.cuda.synchronize()
    return {
        name: [start.elapsed_time(end) / 1e3 for start, end in pairs]
        for name, pairs in events.items()
    }


def capture(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """Capture some calls in a CUDA graph; returns its replay."""
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
    """A function that evicts earlier tensors from the L2 cache."""
    buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    return buffer.zero_


def calls_per_replay(seconds: float) -> int:
    """How many calls of `seconds` each a replay should hold."""
    return max(1, min(100, round(REPLAY_SECONDS / seconds)))


class Ceilings(NamedTuple):
    """Peak rates of this card, measured.

    Attributes:
        bandwidth: of a large copy, bytes/s, read and written.
        matrix_rate: of a large bfloat16 matrix product, FLOP/s.
    """

    bandwidth: float
    matrix_rate: float

    def least_seconds(self, flop: float, size: float) -> float:
        """The roofline's time for `flop` of matrix products and `size` bytes."""
        return max(size / self.bandwidth, flop / self.matrix_rate)


def measure_ceilings() -> Ceilings:
    """Copies of 2 GiB, and products of 8192 × 8192 matrices."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(left)

    def seconds(work: Callable[[], object]) -> float:
        return 1e-3 * float(do_bench_cudagraph(work, rep=MEASURED_MS, return_mode="median"))

    return Ceilings(
        bandwidth=2 * source.numel() / seconds(lambda: target.copy_(source)),
        matrix_rate=2 * 8192**3 / seconds(lambda: torch.mm(left, right, out=out)),
    )
