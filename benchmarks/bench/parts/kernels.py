"""The part `kernels`: each kernel compared with other implementations on a GPU."""

from collections.abc import Iterator
from dataclasses import replace

from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.kernels.compare import compare
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.device import measure_ceilings

PART = "kernels"


def kernels_part(options: BenchOptions) -> Iterator[BenchRow]:
    """A row per kernel, shape and implementation, with a warm cache; on a CPU, one without."""
    if options.device != "cuda":
        status = "needs a GPU (--device cuda); on a CPU PyTorch's own operators run"
        yield _missing(options, status)
        return
    ceilings = measure_ceilings()
    for builds in comparisons().values():
        for build in builds:
            try:
                comparison = build()
                options.report(comparison.kernel)
                for row in compare(comparison, ceilings, options.environment):
                    if row.cache != "cold":
                        yield bench_row(row)
            except Exception as error:  # a package that is missing, a kernel that fails
                yield _missing(options, first_line(error))


def _missing(options: BenchOptions, status: str) -> BenchRow:
    return BenchRow(PART, "all of them", OURS, "bf16", 0, "", options.environment, status)


def bench_row(found: KernelTiming) -> BenchRow:
    """A kernel's row in this command's columns: a round is a call, and all compare with ours."""
    row = BenchRow(
        PART, found.kernel, found.implementation, found.dtype, 0, found.shape, found.environment,
        found.status,
    )  # fmt: skip
    if found.median_us is None or found.error is None or found.ratio is None:
        return row
    ours = found.implementation == OURS
    return replace(
        row,
        rounds=found.rounds,
        p50_ms=found.median_us / 1e3,
        roofline_share=found.roofline_share,
        noise=found.noise,
        accuracy=1 - found.error,
        accuracy_of="1 - error",
        baseline="" if ours else OURS,
        ratio=None if ours else found.ratio.inverse(),
    )
