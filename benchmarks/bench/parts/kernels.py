"""The part `kernels`: each kernel beside its peers on a GPU, as `make gpu-check` runs them."""

from collections.abc import Iterator
from dataclasses import replace

from medfocus.benchmarks.baselines.attention import OURS
from medfocus.benchmarks.bench.failures import FAILURES, first_line
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.gpu import rows as gpu_rows
from medfocus.benchmarks.gpu.check import comparisons
from medfocus.benchmarks.gpu.compare import compare
from medfocus.benchmarks.gpu.timing import measure_ceilings

PART = "kernels"


def kernels_part(request: BenchOptions) -> Iterator[BenchRow]:
    """A row a kernel, shape and contender, with a warm cache; on a CPU one that says why not."""
    if request.device != "cuda":
        status = "runs on a GPU alone; on a CPU PyTorch's own operators take its place"
        yield _missing(request, status)
        return
    ceilings = measure_ceilings()
    for builds in comparisons().values():
        for build in builds:
            try:
                comparison = build()
                request.say(comparison.kernel)
                for row in compare(comparison, ceilings, request.environment):
                    if row.cache != "cold":
                        yield _row(row, request)
            except FAILURES as error:
                yield _missing(request, first_line(error))


def _missing(request: BenchOptions, status: str) -> BenchRow:
    return BenchRow(PART, "all of them", OURS, "bf16", 0, "", request.environment, status)


def _row(found: gpu_rows.KernelTiming, request: BenchOptions) -> BenchRow:
    """A kernel's row in this command's columns; a round is a call, the peers' peer is ours."""
    row = BenchRow(
        PART, found.kernel, found.contender, found.dtype, 0, found.shape, request.environment,
        found.status,
    )  # fmt: skip
    times = (found.median_us, found.error, found.ratio)
    if None in times or found.ratio_low is None or found.ratio_high is None:
        return row
    median, error, ratio = (value for value in times if value is not None)
    return replace(
        row,
        rounds=found.rounds,
        p50_ms=median / 1e3,
        roofline_share=found.roofline_share,
        noise=_noise(found),
        accuracy=1 - error,
        accuracy_of="1 - error",
        peer="" if found.contender == OURS else OURS,
        ratio=None
        if found.contender == OURS
        else Ratio(1 / ratio, 1 / found.ratio_high, 1 / found.ratio_low),
    )


def _noise(found: gpu_rows.KernelTiming) -> Ratio | None:
    """Ours against ours: 1, if the run can be believed."""
    if found.noise_low is None or found.noise_high is None:
        return None
    return Ratio(1.0, found.noise_low, found.noise_high)
