"""One row a contender, shape and cache state: its time, its error, and what was predicted."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.timing.clock import Ratio, quantile
from medfocus.benchmarks.gpu.timing import Ceilings, roofline_seconds

MEASURED = "measured"


@dataclass(frozen=True)
class KernelTiming:
    """What was found about one contender.

    Attributes:
        kernel, shape, dtype, contender, layout: whose row it is, on what inputs.
        status: `measured`, or why not.
        flop, bytes: of the job: useful matrix products; each input and output once.
        predicted_us: the least microseconds they take by the ceilings.
        bandwidth_ceiling, matrix_ceiling: measured on this card, bytes/s and FLOP/s.
        device, driver, torch, triton, revision, date: see `Environment`.
        path, method: which backend ran, and whether a CUDA graph held the calls.
        cache: `warm` (a replay right after the other) or `cold` (the L2 cache flushed before).
        rounds: times taken.
        median_us, p10_us, p90_us: microseconds a call.
        roofline_share: predicted over measured.
        tflops, gbs: TFLOP/s and GB/s of the useful work.
        error: |answer - float64| / |float64|, of the first images.
        ratio: this time over ours, round by round; above 1 ours is faster. ratio_low, ratio_high:
            95% interval of its median.
        noise_low, noise_high: that interval for ours against ours.
    """

    kernel: str
    shape: str
    dtype: str
    contender: str
    layout: str
    status: str
    flop: float
    bytes: float
    predicted_us: float
    bandwidth_ceiling: float
    matrix_ceiling: float
    device: str | None
    driver: str
    torch: str
    triton: str
    revision: str
    date: str
    path: str = ""
    method: str = ""
    cache: str = ""
    rounds: int = 0
    median_us: float | None = None
    p10_us: float | None = None
    p90_us: float | None = None
    roofline_share: float | None = None
    tflops: float | None = None
    gbs: float | None = None
    error: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    noise_low: float | None = None
    noise_high: float | None = None

    @property
    def measured(self) -> bool:
        """Whether its numbers are there."""
        return self.status == MEASURED


def missing_row(
    comparison: Comparison,
    contender: KernelImplementation,
    reason: str,
    ceilings: Ceilings,
    environment: Environment,
    error: float | None = None,
) -> KernelTiming:
    """The row of a contender that has no time."""
    flop = comparison.flop if contender.flop is None else contender.flop
    size = comparison.bytes if contender.bytes is None else contender.bytes
    return KernelTiming(
        kernel=comparison.kernel,
        shape=shape_text(comparison.shape),
        dtype=str(comparison.dtype).removeprefix("torch."),
        contender=contender.name,
        layout=contender.layout,
        status=f"not measured: {reason}",
        flop=flop,
        bytes=size,
        predicted_us=roofline_seconds(flop, size, comparison.slowdown, ceilings) * 1e6,
        bandwidth_ceiling=ceilings.bandwidth,
        matrix_ceiling=ceilings.matrix_rate,
        device=environment.device,
        driver=environment.driver,
        torch=environment.versions["torch"],
        triton=environment.versions["triton"],
        revision=environment.revision,
        date=environment.date,
        error=error,
    )


def measured_row(
    row: KernelTiming,
    path: str,
    method: str,
    cache: str,
    seconds: Sequence[float],
    against_ours: Ratio,
    noise: Ratio,
) -> KernelTiming:
    """A row without a time, given the seconds a call, a number a round."""
    median = quantile(seconds, 0.5)
    return replace(
        row,
        status=MEASURED,
        path=path,
        method=method,
        cache=cache,
        rounds=len(seconds),
        median_us=median * 1e6,
        p10_us=quantile(seconds, 0.1) * 1e6,
        p90_us=quantile(seconds, 0.9) * 1e6,
        roofline_share=row.predicted_us / 1e6 / median,
        tflops=row.flop / median / 1e12,
        gbs=row.bytes / median / 1e9,
        ratio=against_ours.median,
        ratio_low=against_ours.low,
        ratio_high=against_ours.high,
        noise_low=noise.low,
        noise_high=noise.high,
    )


def shape_text(shape: dict[str, int | str]) -> str:
    """B8 H12 N197 D64; what a block belongs to comes without its letter."""
    return " ".join(
        str(size) if letter == "of" else f"{letter}{size}" for letter, size in shape.items()
    )


def line_of(row: KernelTiming) -> str:
    """A row for the eye."""
    name = f"{row.kernel} {row.shape}: {row.contender}"
    if row.median_us is None:
        return f"{name}: {row.status}"
    return (
        f"{name} ({row.cache}, {row.path}): {row.median_us:.1f} µs,"
        f" {row.ratio:.2f} of ours, {row.roofline_share:.0%} of the roofline, error {row.error:.1e}"
    )


def write_rows(folder: Path, rows: Sequence[KernelTiming], environment: Environment) -> None:
    """gpu_check.json and gpu_check.csv; where nothing was measured, the former says so."""
    listed: list[dict[str, object]] = [asdict(row) for row in rows]
    if not listed:
        reason = "no GPU" if environment.device is None else "every part failed"
        listed = [{"status": f"not measured: {reason}", **asdict(environment)}]
    (folder / "gpu_check.json").write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
    if rows:
        with (folder / "gpu_check.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(KernelTiming)])
            writer.writeheader()
            writer.writerows(listed)
