"""The rows of `medfocus-bench` as one table, and what was not measured below it."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.table import Table

from medfocus.benchmarks.bench.report.rows import BenchRow

NUMBERS = ("batch", "images/s", "p50 ms", "p95 ms", "MiB", "roof", "accuracy", "ratio")


def bench_table(rows: Sequence[BenchRow]) -> Table:
    """What was measured, a section a job; columns in which there is nothing are left out."""
    table = Table(title=_title(rows), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    measured = [row for row in rows if row.measured]
    names, lines = columns(measured)
    table.add_column(names[0], min_width=12)
    for name in names[1:]:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    numbered = zip(measured, lines, strict=True)
    for _, found in groupby(numbered, lambda pair: (pair[0].part, pair[0].what)):
        above = ""
        for _, line in found:
            table.add_row("" if line[0] == above else line[0], *line[1:])
            above = line[0]
        table.add_section()
    return table


def columns(rows: Sequence[BenchRow]) -> tuple[list[str], list[list[str]]]:
    """The columns' names, and a line a row; without those in which there is nothing."""
    names = ["what", "contender", "in", *NUMBERS]
    lines = [[_job(row), row.contender, row.precision, *_numbers(row)] for row in rows]
    kept = [place for place in range(len(names)) if any(line[place] for line in lines)]
    return [names[place] for place in kept], [[line[place] for place in kept] for line in lines]


def missing_lines(rows: Sequence[BenchRow]) -> list[str]:
    """A line a row that was not measured: whose it is, and why."""
    return [f"{row.name}: {row.status}" for row in rows if not row.measured]


def _job(row: BenchRow) -> str:
    return f"{row.what}, {row.setting}" if row.setting else row.what


def _numbers(row: BenchRow) -> list[str]:
    return [
        str(row.batch) if row.batch else "",
        _number(row.images_per_second),
        _number(row.p50_ms),
        _number(row.p95_ms),
        "" if row.peak_memory is None else f"{row.peak_memory:,.0f}",
        "" if row.roofline_share is None else f"{row.roofline_share:.0%}",
        "" if row.accuracy is None else f"{row.accuracy_of} {row.accuracy:.4f}",
        _ratio(row),
    ]


def _number(value: float | None) -> str:
    """Three significant digits or more, without an exponent."""
    if value is None:
        return ""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def _ratio(row: BenchRow) -> str:
    """With its interval; ~ where the peer was not as fast as itself."""
    if row.ratio is None:
        return ""
    doubt = "~" if row.too_noisy else ""
    return f"{doubt}{row.ratio.median:.2f} [{row.ratio.low:.2f}, {row.ratio.high:.2f}]"


def _title(rows: Sequence[BenchRow]) -> str:
    environment = rows[0].environment
    peers = "; ".join(dict.fromkeys(row.peer for row in rows if row.peer))
    place = environment.device or environment.processor
    lines = [f"{place}, {environment.threads} threads, {environment.revision}, {environment.date}"]
    if peers:
        lines.append(f"Ratio: images/s over those of {peers}, round by round [95% interval].")
    if any(row.roofline_share is not None for row in rows):
        lines.append("Roof: the least time by this machine's measured ceilings, over the median.")
    return "\n".join(lines)
