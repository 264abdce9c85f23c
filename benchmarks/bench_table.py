"""The rows of `medfocus-bench` as one table, and what was not measured below it."""

from collections.abc import Sequence
from itertools import compress, groupby

from rich import box
from rich.table import Table

from medfocus.benchmarks.rows import Row
from medfocus.benchmarks.timing import Ratio

COLUMNS = ("batch", "images/s", "p50 ms", "p95 ms", "MiB", "roof", "accuracy", "ratio")


def bench_table(rows: Sequence[Row]) -> Table:
    """What was measured, a section a job; columns in which there is nothing are left out."""
    table = Table(title=_title(rows), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", min_width=12)
    for name in ("contender", "in"):
        table.add_column(name, no_wrap=True)
    measured = [row for row in rows if row.measured]
    numbers = {row.key: _numbers(row) for row in measured}
    shown = [any(cells[place] for cells in numbers.values()) for place in range(len(COLUMNS))]
    for name in compress(COLUMNS, shown):
        table.add_column(name, justify="right", no_wrap=True)
    for job, found in groupby(measured, _job):
        for place, row in enumerate(found):
            cells = compress(numbers[row.key], shown)
            table.add_row("" if place else job, row.contender, row.precision, *cells)
        table.add_section()
    return table


def missing_lines(rows: Sequence[Row]) -> list[str]:
    """A line a row that was not measured: whose it is, and why."""
    return [f"{row.name}: {row.status}" for row in rows if not row.measured]


def _job(row: Row) -> str:
    return f"{row.what}, {row.setting}" if row.setting else row.what


def _numbers(row: Row) -> list[str]:
    return [
        str(row.batch),
        _number(row.images_per_second),
        _number(row.p50_ms),
        _number(row.p95_ms),
        "" if row.peak_memory is None else f"{row.peak_memory:,.0f}",
        "" if row.roofline_share is None else f"{row.roofline_share:.0%}",
        "" if row.accuracy is None else f"{row.accuracy_of} {row.accuracy:.4f}",
        _ratio(row.ratio),
    ]


def _number(value: float | None) -> str:
    """Three significant digits or more, without an exponent."""
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _title(rows: Sequence[Row]) -> str:
    environment = rows[0].environment
    peers = ", ".join(dict.fromkeys(row.peer for row in rows if row.peer))
    place = environment.device or environment.processor
    lines = [f"{place}, {environment.threads} threads, {environment.revision}, {environment.date}"]
    if peers:
        lines.append(f"Ratio: images/s over those of {peers}, round by round [95% interval].")
    if any(row.roofline_share is not None for row in rows):
        lines.append("Roof: the least time by this machine's measured ceilings, over the median.")
    return "\n".join(lines)
