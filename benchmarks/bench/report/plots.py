"""The rows of `medfocus-bench` as pictures (PNG)."""

from collections.abc import Callable, Sequence
from itertools import cycle, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.report.rows import BOTH, BenchRow

OUR_COLOURS = ("#0b6e99", "#3a9d5d", "#7a5195", "#d1495b", "#12436d", "#e0a030", "#2a9d8f")
BASELINE_COLOURS = ("#8a9096", "#b9bec4", "#c9a06a", "#d9d2c5", "#a4a4a4")
LEAST_ERROR = 1e-7  # of float32
COLUMNS = 3


def draw(rows: Sequence[BenchRow], folder: Path) -> list[Path]:
    """Draw every picture that has rows into an existing folder; returns the files."""
    files = []
    measured = [row for row in rows if row.measured]
    for name, wanted, picture in PICTURES:
        found = [row for row in measured if wanted(row)]
        if found:
            file = folder / f"{name}.png"
            figure = picture(found)
            environment = found[0].environment
            place = environment.device or environment.processor
            title = f"{place}, {environment.threads} threads, {environment.date}"
            figure.suptitle(title, x=0.01, ha="left", fontsize=9)
            figure.tight_layout()
            figure.savefig(file, dpi=110)
            files.append(file)
    return files


def _speeds(rows: Sequence[BenchRow]) -> Figure:
    """Images per second of every implementation; a line down to the p95 round."""
    whats = list(dict.fromkeys(row.what for row in rows))
    batches = sorted({row.batch for row in rows})
    colours = _colours(rows)
    figure = Figure(figsize=(4.6 * len(whats), 0.6 + (0.8 + 0.3 * len(colours)) * len(batches)))
    axes = figure.subplots(len(batches), len(whats), sharey=True, squeeze=False)
    for axis, (batch, what) in zip(axes.flat, product(batches, whats), strict=True):
        found = {_title(row): row for row in rows if (row.what, row.batch) == (what, batch)}
        for place, (title, colour) in enumerate(colours.items()):
            if title not in found:
                continue
            row = found[title]
            rate, p95 = row.images_per_second, row.p95_ms
            assert rate is not None
            assert p95 is not None
            axis.barh(place, rate, color=colour, height=0.7)
            axis.plot([row.batch / p95 * 1e3, rate], [place, place], color="#222222", lw=1)
            ratio = "" if row.ratio is None else f"  ×{row.ratio.median:.2f}"
            axis.text(rate, place, f" {rate:.3g}{ratio}", va="center", fontsize=8)
        axis.set_title(f"{what}, batch {batch}", fontsize=10)
        _label(axis, "images per second (line: down to the p95 round)")
        axis.margins(x=0.25)
    axes[0][0].set_yticks(range(len(colours)), list(colours))
    axes[0][0].invert_yaxis()
    for first in axes[:, 0]:
        first.tick_params(axis="y", labelsize=8)
    return figure


def _batches(rows: Sequence[BenchRow]) -> Figure:
    """Images per second, and a process's memory, by batch size."""
    figure = Figure(figsize=(9.6, 4.2))
    speed, memory = figure.subplots(1, 2)
    for title, colour in _colours(rows).items():
        found = [row for row in rows if _title(row) == title]
        line = sorted((row.batch, row.images_per_second, row.peak_memory) for row in found)
        batches, rates, peaks = zip(*line, strict=True)
        speed.plot(batches, rates, "o-", color=colour, label=title, ms=4)
        memory.plot(batches, peaks, "o-", color=colour, ms=4)
    sizes = sorted({row.batch for row in rows})
    for axis, what in ((speed, "images per second"), (memory, "peak memory of the process, MiB")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        _label(axis, "batch size", what)
        axis.set_ylim(bottom=0)
    speed.legend(frameon=False, fontsize=8)
    return figure


def _latencies(rows: Sequence[BenchRow]) -> Figure:
    """Cumulative distribution of the latency of `Engine.classify`, by number of callers."""
    engines = list(_colours(rows))
    figure = Figure(figsize=(4.2 * len(engines), 3.6))
    axes = figure.subplots(1, len(engines), sharex=True, sharey=True, squeeze=False)
    for axis, title in zip(axes[0], engines, strict=True):
        found = [row for row in rows if _title(row) == title]
        for place, row in enumerate(found):
            shade = 0.25 + 0.75 * place / max(1, len(found) - 1)
            axis.ecdf(row.times_ms, label=row.setting, color=OUR_COLOURS[0], alpha=shade)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title, fontsize=9)
        _label(axis, "milliseconds")
    axes[0][0].set_ylabel("share of calls")
    axes[0][-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _front(rows: Sequence[BenchRow]) -> Figure:
    """How far the embeddings are from float32's, by images per second."""
    figure = Figure(figsize=(8, 3.6))
    axis = figure.subplots()
    for title, colour in _colours(rows).items():
        found = [row for row in rows if _title(row) == title]
        rates = [row.images_per_second or 0.0 for row in found]
        errors = [max(1 - (row.accuracy or 0), LEAST_ERROR) for row in found]
        axis.plot(rates, errors, "o", color=colour, label=title)
    axis.set_yscale("log")
    axis.invert_yaxis()
    _label(axis, "images per second, both models", "1 - cosine to float32")
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _kernels(rows: Sequence[BenchRow]) -> Figure:
    """Microseconds of every implementation of a kernel at a shape, with the roofline in red."""
    panels: dict[str, list[BenchRow]] = {}
    for row in rows:
        panels.setdefault(f"{row.what}\n{row.setting}, {row.precision}", []).append(row)
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(6.4 * COLUMNS, 3.0 * lines + 0.5))
    axes = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for axis, (title, found) in zip(axes, panels.items(), strict=False):
        found.sort(key=lambda row: row.p50_ms or 0.0)
        for place, row in enumerate(found):
            median = 1e3 * (row.p50_ms or 0.0)
            colours = OUR_COLOURS if row.implementation.startswith(OURS) else BASELINE_COLOURS
            axis.barh(place, median, color=colours[0], height=0.7)
            slower = "" if row.ratio is None else f"  {1 / row.ratio.median:.2f}×"
            text = f" {median:,.4g}{slower}  err {1 - (row.accuracy or 0):.1e}"
            axis.text(median, place, text, va="center", fontsize=8)
            least = median * (row.roofline_share or 0)
            axis.plot([least, least], [place - 0.42, place + 0.42], color="#c0392b", lw=2)
        axis.set_yticks(range(len(found)), [row.implementation for row in found], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.45)
        axis.set_title(title, fontsize=10, loc="left")
        _label(axis, "microseconds per call, warm cache; ×: over ours")
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return figure


# A file's name, the rows it shows, and how.
PICTURES: tuple[
    tuple[str, Callable[[BenchRow], bool], Callable[[Sequence[BenchRow]], Figure]], ...
] = (
    ("models", lambda row: row.part == "models", _speeds),
    ("front", lambda row: (row.part, row.what) == ("models", BOTH), _front),
    ("batches", lambda row: (row.part, row.what, row.setting) == ("scaling", BOTH, ""), _batches),
    ("kernels", lambda row: row.part == "kernels", _kernels),
    ("latency", lambda row: row.what == "Engine.classify", _latencies),
)


def _title(row: BenchRow) -> str:
    return f"{row.implementation}, {row.precision}"


def _colours(rows: Sequence[BenchRow]) -> dict[str, str]:
    """A colour for each implementation: baselines are pale."""
    ours, theirs = cycle(OUR_COLOURS), cycle(BASELINE_COLOURS)
    titles = dict.fromkeys(map(_title, rows))
    return {each: next(ours if each.startswith(OURS) else theirs) for each in titles}


def _label(axis: Axes, x: str, y: str | None = None) -> None:
    axis.set_xlabel(x, fontsize=8)
    if y is not None:
        axis.set_ylabel(y, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
