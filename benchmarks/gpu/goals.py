"""The goals for an H200 in bfloat16, and whether the rows meet them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medfocus.benchmarks.baselines.attention import OURS
from medfocus.benchmarks.baselines.pipeline import DENSE, SAM2
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.gpu.pipeline_goals import GOAL_DEVICE
from medfocus.benchmarks.gpu.rows import KernelTiming

GOAL_SHAPES = {
    "B256 H12 N197 D64": 1.15,
    "B256 H16 N257 D64": 1.3,
    "B64 H16 N577 D64": 1.0,
}
PEERS = ("SDPA efficient", "SDPA cuDNN", "FlexAttention")
BIAS_COST = 1.05
WINDOW_GAIN = 1.5
HARD_GAIN = 2.0


@dataclass(frozen=True)
class Figure:
    """What was found for a goal.

    Attributes:
        value: with its 95% interval; None where it is not measured.
        note: against whom, or what is missing.
    """

    value: Ratio | None
    note: str


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        text: in words.
        limit: the number to reach, or to stay under.
        at_least: which of the two.
        figure: from all rows.
    """

    text: str
    limit: float
    at_least: bool
    figure: Callable[[Sequence[KernelTiming]], Figure]

    def verdict(self, rows: Sequence[KernelTiming]) -> str:
        """`met`, `not met` or `not measured`."""
        value = self.figure(rows).value
        if value is None:
            return "not measured"
        reached = value.median >= self.limit if self.at_least else value.median <= self.limit
        return "met" if reached else "not met"


def goals() -> list[Goal]:
    """All of them."""
    against = [
        Goal(
            f"masked_attention, {shape}, against the fastest peer",
            limit,
            True,
            lambda rows, shape=shape: fastest_peer(rows, shape),  # type: ignore[misc]
        )
        for shape, limit in GOAL_SHAPES.items()
    ]
    return [
        *against,
        Goal("masked_attention, bias on against off, the worst shape", BIAS_COST, False, bias_cost),
        Goal("window attention against SAM2's own, the worst shape", WINDOW_GAIN, True, windows),
        Goal("hard focus at 30% kept, ViT-L-14-336, B 64, end to end", HARD_GAIN, True, kept),
    ]


def fastest_peer(rows: Sequence[KernelTiming], shape: str) -> Figure:
    """How many times our time the fastest of `PEERS` takes."""
    found = {row.contender: row for row in _counted(rows, "masked_attention", shape)}
    timed = [found[name] for name in PEERS if name in found]
    missing = [name for name in PEERS if name not in found]
    if not timed or OURS not in found:
        return Figure(None, "")
    best = min(timed, key=lambda row: row.median_us or 0.0)
    note = f"{best.contender}" + (f"; without {', '.join(missing)}" if missing else "")
    return Figure(_ratio(best), note)


def bias_cost(rows: Sequence[KernelTiming]) -> Figure:
    """Our time with a bias over that without, where it is largest."""
    found = [
        row
        for shape in GOAL_SHAPES
        for row in _counted(rows, "masked_attention", shape)
        if row.contender == f"{OURS}, no bias"
    ]
    if len(found) < len(GOAL_SHAPES):
        return Figure(None, "")
    # A row's ratio is its time over ours, which has the bias.
    costs = [
        (Ratio(1 / r.median, 1 / r.high, 1 / r.low), row.shape)
        for row in found
        for r in [_ratio(row)]
    ]
    return Figure(*max(costs, key=lambda cost: cost[0].median))


def windows(rows: Sequence[KernelTiming]) -> Figure:
    """SAM2's time over ours, where it is smallest."""
    return _least(_counted(rows, "window_attention"), SAM2)


def kept(rows: Sequence[KernelTiming]) -> Figure:
    """The dense encoder's time over that on kept tokens."""
    return _least(_counted(rows, "hard focus"), DENSE)


def _least(rows: Sequence[KernelTiming], contender: str) -> Figure:
    found = [(_ratio(row), row.shape) for row in rows if row.contender == contender]
    if not found:
        return Figure(None, "")
    return Figure(*min(found, key=lambda pair: pair[0].median))


def _counted(
    rows: Sequence[KernelTiming], kernel: str, shape: str | None = None
) -> list[KernelTiming]:
    """Rows with a warm cache beside which our kernel ran, and not PyTorch in its place."""
    chosen = [
        row
        for row in rows
        if row.kernel == kernel
        and row.cache == "warm"
        and row.measured
        and shape in (None, row.shape)
    ]
    by_kernel = {row.shape for row in chosen if row.contender == OURS and row.path == "triton"}
    return [row for row in chosen if row.shape in by_kernel]


def _ratio(row: KernelTiming) -> Ratio:
    assert row.ratio is not None
    assert row.ratio_low is not None
    assert row.ratio_high is not None
    return Ratio(row.ratio, row.ratio_low, row.ratio_high)


def missed(rows: Sequence[KernelTiming], device: str | None) -> Iterator[str]:
    """Goals that were not met, or not measured, on the device that they are for."""
    if device is not None and GOAL_DEVICE in device:
        for goal in goals():
            verdict = goal.verdict(rows)
            if verdict != "met":
                yield f"goal {verdict}: {goal.text}"


def goals_table(rows: Sequence[KernelTiming], device: str | None) -> str:
    """The table, and the device if it is not the goals'."""
    lines = []
    for goal in goals():
        figure, sign = goal.figure(rows), "≥" if goal.at_least else "≤"
        value = figure.value
        said = f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]" if value else "-"
        lines.append((goal.text, f"{sign} {goal.limit:.2f}", said, goal.verdict(rows), figure.note))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    title = f"Goals for an {GOAL_DEVICE}, bfloat16; ratios of times, warm, with 95% intervals"
    if device is not None and GOAL_DEVICE not in device:
        title += f" (this is {device})"
    body = []
    for *cells, note in lines:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        body.append(f"{line}  ({note})" if note else line.rstrip())
    return "\n".join([title, *body])
