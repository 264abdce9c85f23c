"""What became worse since an earlier run on the same machine."""

import math
from collections.abc import Sequence

from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import InputError

# A slow-down counts from three standard errors: with two, one row of twenty would always seem
# slower, and a table has fifty.
STANDARD_ERRORS = 3.0
LEAST_SLOWER = 0.03
LEAST_WORSE = 0.005  # of an accuracy
LEAST_LARGER = 0.1  # of peak memory


def regressions(old: Sequence[BenchRow], new: Sequence[BenchRow]) -> list[tuple[BenchRow, str]]:
    """Rows of `old` that are slower, less accurate, larger or missing in `new`, and what is worse.

    Speed is compared by the ratios to the baseline, in which a machine's drift cancels out. Rows of
    parts that were not run this time are left out.

    Raises:
        InputError: the runs are of two machines, or have no row in common.
    """
    for name in ("device", "processor"):
        before, now = ({getattr(row.environment, name) for row in rows} for rows in (old, new))
        if before and now and before != now:
            problem = f"was measured on another {name}: {_listed(before)}; this is {_listed(now)}"
            hint = "measure both on one machine"
            raise InputError("--compare", problem, hint, code="bench.not_comparable")
    found = {row.key: row for row in new}
    parts = {row.part for row in new}
    common = [row for row in old if row.part in parts and row.measured]
    if not any(row.key in found for row in common):
        problem, hint = "has no row of this run", "run the same parts and engines"
        raise InputError("--compare", problem, hint, code="bench.not_comparable")
    problems = [(row, _problem(row, found.get(row.key))) for row in common]
    return [(row, problem) for row, problem in problems if problem is not None]


def _problem(old: BenchRow, new: BenchRow | None) -> str | None:
    if new is None:
        return "is missing"
    if not new.measured:
        return f"was measured, and now: {new.status}"
    if old.baseline and new.baseline and old.baseline != new.baseline:
        return f"was compared with {old.baseline}, and now with {new.baseline}"
    if old.ratio is not None and new.ratio is not None:
        change = new.ratio.median / old.ratio.median
        error = math.hypot(_standard_error(old.ratio), _standard_error(new.ratio))
        if change < 1 - LEAST_SLOWER and -math.log(change) > STANDARD_ERRORS * error:
            return (
                f"{1 - change:.1%} slower compared with {new.baseline}:"
                f" {old.ratio.median:.3f} times its speed before, {new.ratio.median:.3f} now"
            )
    if old.accuracy is not None and new.accuracy is not None:
        fall = old.accuracy - new.accuracy
        if fall > LEAST_WORSE:
            return f"{new.accuracy_of} was {old.accuracy:.4f}, and now {new.accuracy:.4f}"
    if old.peak_memory and new.peak_memory:
        growth = new.peak_memory / old.peak_memory - 1
        if growth > LEAST_LARGER:
            return f"takes {growth:.0%} more memory: {new.peak_memory:.0f} MiB"
    return None


def _standard_error(ratio: Ratio) -> float:
    """Of the logarithm of a median, from its 95% interval."""
    return math.log(ratio.high / ratio.low) / (2 * 1.96)


def _listed(names: set[str | None]) -> str:
    return ", ".join(sorted(name or "no GPU" for name in names))
