"""The rows of `medfocus-bench` as one table, followed by what was not measured."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.table import Table

from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio

WORDS = ("what", "implementation", "in")
NUMBERS = ("batch", "images/s", "p50 ms", "p95 ms", "MiB", "roof", "accuracy", "ratio")


def bench_table(rows: Sequence[BenchRow]) -> Table:
    """What was measured, in sections; columns without any value are left out."""
    table = Table(title=_title(rows), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    measured = [row for row in rows if row.measured]
    names, lines = columns(measured)
    table.add_column(names[0], min_width=12)
    for name in names[1:]:
        header = name.replace(" to ", " to\n").replace(", ", ",\n")  # of another baseline
        justify = "left" if name in WORDS else "right"
        table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    numbered = zip(measured, lines, strict=True)
    for _, found in groupby(numbered, lambda pair: (pair[0].part, pair[0].what)):
        above = ""
        for _, line in found:
            table.add_row("" if line[0] == above else line[0], *line[1:])
            above = line[0]
        table.add_section()
    return table


def columns(rows: Sequence[BenchRow]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns that have a value, and one list of cells per row."""
    others = dict.fromkeys(name for row in rows for name in row.ratios)
    names = [*WORDS, *NUMBERS, *(f"ratio to {name}" for name in others)]
    lines = [
        [
            f"{row.what}, {row.setting}" if row.setting else row.what,
            row.implementation,
            row.precision,
            *_numbers(row),
            *(_ratio(row, row.ratios.get(name)) for name in others),
        ]
        for row in rows
    ]
    kept = [place for place in range(len(names)) if any(line[place] for line in lines)]
    return [names[place] for place in kept], [[line[place] for place in kept] for line in lines]


def missing_lines(rows: Sequence[BenchRow]) -> list[str]:
    """One line per row that was not measured, with the reason."""
    return [f"{row.name}: {row.status}" for row in rows if not row.measured]


def _numbers(row: BenchRow) -> list[str]:
    return [
        str(row.batch) if row.batch else "",
        _number(row.images_per_second),
        _number(row.p50_ms),
        _number(row.p95_ms),
        "" if row.peak_memory is None else f"{row.peak_memory:,.0f}",
        "" if row.roofline_share is None else f"{row.roofline_share:.0%}",
        "" if row.accuracy is None else f"{row.accuracy_of} {row.accuracy:.4f}",
        _ratio(row, row.ratio),
    ]


def _number(value: float | None) -> str:
    """Three significant digits or more, without an exponent."""
    if value is None:
        return ""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def _ratio(row: BenchRow, ratio: Ratio | None) -> str:
    """With its interval; ~ where the run was too noisy."""
    if ratio is None:
        return ""
    doubt = "~" if row.too_noisy else ""
    return f"{doubt}{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _title(rows: Sequence[BenchRow]) -> str:
    environment = rows[0].environment
    baselines = "; ".join(dict.fromkeys(row.baseline for row in rows if row.baseline))
    place = environment.device or environment.processor
    lines = [f"{place}, {environment.threads} threads, {environment.revision}, {environment.date}"]
    if baselines:
        lines.append(f"Ratio: of images/s to {baselines}, round by round [95% interval].")
    if any(row.roofline_share is not None for row in rows):
        lines.append("Roof: the roofline's least time, by this machine's peak rates, over the p50.")
    return "\n".join(lines)
