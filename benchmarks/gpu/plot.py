"""The rows as a picture: a panel a comparison, a bar a contender, the predicted least as a line."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfocus.benchmarks.baselines.attention import OURS
from medfocus.benchmarks.gpu.rows import KernelTiming

COLUMNS = 3
OUR_COLOUR, PEER_COLOUR, LEAST_COLOUR = "#0b6e99", "#b9bec4", "#c0392b"


def plot(rows: Sequence[KernelTiming], path: Path, cache: str = "warm") -> str | None:
    """Write a PNG of the rows with one state of the cache.

    Returns:
        Why there is none, or None.
    """
    panels: dict[tuple[str, str], list[KernelTiming]] = {}
    for row in rows:
        if row.cache in (cache, ""):  # what has no time has no cache either
            panels.setdefault((row.kernel, row.shape), []).append(row)
    panels = {name: found for name, found in panels.items() if any(r.measured for r in found)}
    if not panels:
        return "no row was measured"
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = math.ceil(len(panels) / COLUMNS)
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(6.4 * COLUMNS, 3.0 * lines + 0.5), squeeze=False
    )
    axes = list(grid.flat)
    for axis, ((kernel, shape), found) in zip(axes, panels.items(), strict=False):
        _panel(axis, found)
        axis.set_title(f"{kernel}\n{shape}, {found[0].dtype}", fontsize=10, loc="left")
    for axis in axes[len(panels) :]:
        axis.axis("off")
    first = rows[0]
    figure.suptitle(
        f"{first.device}, driver {first.driver}, torch {first.torch}, triton {first.triton},"
        f" {first.revision}, {first.date}. Microseconds a call, {cache} L2: median, 10th to 90th"
        " percentile.\nRed: the least by this card's measured bandwidth and matrix rate."
        " ×: time over ours. err: against float64.",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / (3.0 * lines + 0.5)))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return None


def _panel(axis: Any, rows: Sequence[KernelTiming]) -> None:
    timed = sorted((row for row in rows if row.measured), key=lambda row: row.median_us or 0.0)
    missing = {row.contender: row for row in rows if not row.measured}
    names = [row.contender for row in timed]
    widest = max(row.p90_us or 0.0 for row in timed)
    for place, row in enumerate(timed):
        assert row.median_us is not None
        assert row.p10_us is not None
        assert row.p90_us is not None
        own = row.contender.startswith(OURS)
        axis.barh(place, row.median_us, color=OUR_COLOUR if own else PEER_COLOUR, height=0.7)
        axis.errorbar(
            row.median_us, place, fmt="none", ecolor="black", elinewidth=1, capsize=2,
            xerr=[[row.median_us - row.p10_us], [row.p90_us - row.median_us]],
        )  # fmt: skip
        said = f"{row.median_us:,.0f}" if row.median_us >= 100 else f"{row.median_us:.1f}"
        if row.contender != OURS:
            said += f"  {row.ratio:.2f}×"
        axis.text(
            max(row.median_us, row.p90_us) + 0.02 * widest, place,
            f"{said}  err {row.error:.1e}", va="center", fontsize=8,
        )  # fmt: skip
        axis.plot([row.predicted_us] * 2, [place - 0.42, place + 0.42], color=LEAST_COLOUR, lw=2)
    for name, row in missing.items():
        if name not in names:
            axis.text(0, len(names), row.status[:70], va="center", fontsize=7, color="gray")
            names.append(name)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 1.45 * widest)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
