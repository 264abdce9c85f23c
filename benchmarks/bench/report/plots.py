"""The rows of `medfocus-bench` as pictures, a PNG a question."""

from collections.abc import Callable, Sequence
from itertools import cycle, product
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from medfocus.benchmarks.baselines.implementations import OURS
from medfocus.benchmarks.bench.parts.models import BOTH
from medfocus.benchmarks.bench.report.rows import BenchRow

OUR_COLOURS = ("#0b6e99", "#3a9d5d", "#7a5195", "#d1495b", "#12436d", "#e0a030", "#2a9d8f")
PEER_COLOURS = ("#8a9096", "#b9bec4", "#c9a06a", "#d9d2c5", "#a4a4a4")

LEAST_ERROR = 1e-7  # of float32


def draw(rows: Sequence[BenchRow], folder: Path) -> list[Path]:
    """Every picture for which there are rows.

    Args:
        rows: of one run.
        folder: that is there.

    Returns:
        the files.
    """
    files = []
    measured = [row for row in rows if row.measured]
    for name, wanted, picture in PICTURES:
        found = [row for row in measured if wanted(row)]
        if found:
            file = folder / f"{name}.png"
            figure = picture(found)
            figure.suptitle(_where(found[0]), x=0.01, ha="left", fontsize=9)
            figure.tight_layout()
            figure.savefig(file, dpi=110)
            files.append(file)
    return files


def _speeds(rows: Sequence[BenchRow]) -> Figure:
    """Images a second of every contender at every job; the times of the rounds as whiskers."""
    jobs = list(dict.fromkeys(row.what for row in rows))
    batches = sorted({row.batch for row in rows})
    colours = _colours(rows)
    figure = Figure(figsize=(4.6 * len(jobs), 0.6 + (0.8 + 0.3 * len(colours)) * len(batches)))
    axes = figure.subplots(len(batches), len(jobs), sharey=True, squeeze=False)
    for axis, (batch, job) in zip(axes.flat, product(batches, jobs), strict=True):
        found = {_who(row): row for row in rows if (row.what, row.batch) == (job, batch)}
        for place, (who, colour) in enumerate(colours.items()):
            if who not in found:
                continue
            row = found[who]
            rate, p95 = row.images_per_second, row.p95_ms
            assert rate is not None
            assert p95 is not None
            slow = row.batch / p95 * 1e3
            axis.barh(place, rate, color=colour, height=0.7)
            axis.plot([slow, rate], [place, place], color="#222222", lw=1)
            ratio = "" if row.ratio is None else f"  ×{row.ratio.median:.2f}"
            axis.text(rate, place, f" {rate:.3g}{ratio}", va="center", fontsize=8)
        axis.set_title(f"{job}, batch {batch}", fontsize=10)
        axis.set_xlabel("images a second (line: down to the p95 round)", fontsize=8)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(colours)), list(colours))
    axes[0][0].invert_yaxis()
    for first in axes[:, 0]:
        first.tick_params(axis="y", labelsize=8)
    return figure


def _batches(rows: Sequence[BenchRow]) -> Figure:
    """Images a second, and a process's memory, against images at once."""
    figure = Figure(figsize=(9.6, 4.2))
    speed, memory = figure.subplots(1, 2)
    for who, colour in _colours(rows).items():
        line = sorted(
            (row.batch, row.images_per_second, row.peak_memory) for row in rows if _who(row) == who
        )
        batches, rates, peaks = zip(*line, strict=True)
        speed.plot(batches, rates, "o-", color=colour, label=who, ms=4)
        memory.plot(batches, peaks, "o-", color=colour, ms=4)
    sizes = sorted({row.batch for row in rows})
    for axis, what in ((speed, "images a second"), (memory, "MiB at most, of a process")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("images at once")
        axis.set_ylabel(what)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    speed.legend(frameon=False, fontsize=8)
    return figure


def _latencies(rows: Sequence[BenchRow]) -> Figure:
    """The share of `Engine.classify`'s calls that took at most so long, by callers."""
    engines = list(_colours(rows))
    figure = Figure(figsize=(4.2 * len(engines), 3.6))
    axes = figure.subplots(1, len(engines), sharex=True, sharey=True, squeeze=False)
    for axis, who in zip(axes[0], engines, strict=True):
        found = [row for row in rows if _who(row) == who]
        for place, row in enumerate(found):
            times = sorted(row.times_ms)
            shares = [(number + 1) / len(times) for number in range(len(times))]
            shade = 0.25 + 0.75 * place / max(1, len(found) - 1)
            axis.step(
                times, shares, where="post", label=row.setting, color=OUR_COLOURS[0], alpha=shade
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(who, fontsize=9)
        axis.set_xlabel("milliseconds", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share of calls")
    axes[0][-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _front(rows: Sequence[BenchRow]) -> Figure:
    """How far the embeddings are from float32's, against images a second."""
    figure = Figure(figsize=(8, 3.6))
    axis = figure.subplots()
    for who, colour in _colours(rows).items():
        found = [row for row in rows if _who(row) == who]
        rates = [row.images_per_second or 0.0 for row in found]
        errors = [max(1 - (row.accuracy or 0), LEAST_ERROR) for row in found]
        axis.plot(rates, errors, "o", color=colour, label=who)
    axis.set_yscale("log")
    axis.invert_yaxis()
    axis.set_xlabel("images a second, both models")
    axis.set_ylabel("1 - cosine to float32")
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# A file's name, the rows it shows, and how.
PICTURES: tuple[
    tuple[str, Callable[[BenchRow], bool], Callable[[Sequence[BenchRow]], Figure]], ...
] = (
    ("models", lambda row: row.part == "models", _speeds),
    ("front", lambda row: (row.part, row.what) == ("models", BOTH), _front),
    ("batches", lambda row: (row.part, row.what, row.setting) == ("scaling", BOTH, ""), _batches),
    ("latency", lambda row: row.what == "Engine.classify", _latencies),
)


def _who(row: BenchRow) -> str:
    return f"{row.contender}, {row.precision}"


def _colours(rows: Sequence[BenchRow]) -> dict[str, str]:
    """A colour a contender: ours stand out."""
    ours, peers = cycle(OUR_COLOURS), cycle(PEER_COLOURS)
    return {
        who: next(ours if who.startswith(OURS) else peers) for who in dict.fromkeys(map(_who, rows))
    }


def _where(row: BenchRow) -> str:
    environment = row.environment
    place = environment.device or environment.processor
    return f"{place}, {environment.threads} threads, {environment.date}"
