"""A row per implementation, shape and cache state: its time, its error and the roofline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.report.rows import MEASURED
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.bench.timing.device import Ceilings


@dataclass(frozen=True)
class KernelTiming:
    """One implementation of a kernel.

    Attributes:
        kernel, shape, dtype, implementation, layout: what was measured, on which inputs.
        status: `measured`, or why not.
        flop, bytes: useful matrix products; each input and output once.
        predicted_us: the roofline's least microseconds.
        bandwidth_ceiling, matrix_ceiling: measured on this card, bytes/s and FLOP/s.
        environment: where and when.
        path, method: which backend ran, and whether a CUDA graph held the calls.
        cache: `warm` (replays back to back) or `cold` (the L2 cache flushed before each).
        rounds: how often it was timed.
        median_us: microseconds per call.
        roofline_share: predicted over measured.
        error: |answer - float64| / |float64|, of the first images.
        ratio: of its time to ours, round by round; above 1 ours is faster.
        noise: the same of ours to itself.
    """

    kernel: str
    shape: str
    dtype: str
    implementation: str
    layout: str
    status: str
    flop: float
    bytes: float
    predicted_us: float
    bandwidth_ceiling: float
    matrix_ceiling: float
    environment: Environment
    path: str = ""
    method: str = ""
    cache: str = ""
    rounds: int = 0
    median_us: float | None = None
    roofline_share: float | None = None
    error: float | None = None
    ratio: Ratio | None = None
    noise: Ratio | None = None

    @property
    def measured(self) -> bool:
        """Whether it has figures."""
        return self.status == MEASURED

    def timed(self, seconds: Sequence[float], **fields: object) -> "KernelTiming":
        """This row with the seconds per call, one number per round, and other fields."""
        median = 1e6 * float(np.median(seconds))
        times = {"median_us": median, "roofline_share": self.predicted_us / median}
        found = {**times, "rounds": len(seconds), **fields}
        return replace(self, status=MEASURED, **found)  # type: ignore[arg-type]

    def __str__(self) -> str:
        name = f"{self.kernel} {self.shape}: {self.implementation}"
        if self.median_us is None or self.ratio is None:
            return f"{name}: {self.status}"
        return (
            f"{name} ({self.cache}, {self.path}): {self.median_us:.1f} µs,"
            f" {self.ratio.median:.2f} of ours, {self.roofline_share:.0%} of the roofline,"
            f" error {self.error:.1e}"
        )


def missing_row(
    comparison: Comparison,
    implementation: KernelImplementation,
    reason: str,
    ceilings: Ceilings,
    environment: Environment,
    error: float | None = None,
) -> KernelTiming:
    """The row of an implementation without a time."""
    flop = comparison.flop if implementation.flop is None else implementation.flop
    size = comparison.bytes if implementation.bytes is None else implementation.bytes
    return KernelTiming(
        kernel=comparison.kernel,
        # B8 H12 N197 D64; a block's name comes without its letter.
        shape=" ".join(f"{letter.replace('of', '')}{n}" for letter, n in comparison.shape.items()),
        dtype=str(comparison.dtype).removeprefix("torch."),
        implementation=implementation.name,
        layout=implementation.layout,
        status=f"not measured: {reason}",
        flop=flop,
        bytes=size,
        predicted_us=ceilings.least_seconds(flop * comparison.slowdown, size) * 1e6,
        bandwidth_ceiling=ceilings.bandwidth,
        matrix_ceiling=ceilings.matrix_rate,
        environment=environment,
        error=error,
    )
