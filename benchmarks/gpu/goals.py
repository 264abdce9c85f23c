"""The kernels' goals for an H200 in bfloat16, and whether the rows meet them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from medfocus.benchmarks.baselines.encoder_blocks import DENSE, SAM2
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.gpu.pipeline_goals import GOAL_DEVICE

GOAL_SHAPES = {
    "B256 H12 N197 D64": 1.15,
    "B256 H16 N257 D64": 1.3,
    "B64 H16 N577 D64": 1.0,
}
BASELINES = ("SDPA efficient", "SDPA cuDNN", "FlexAttention")


class Figure(NamedTuple):
    """What was measured for a goal, if it was, and with what or at which shape."""

    value: Ratio | None = None
    note: str = ""


class Goal(NamedTuple):
    """A figure of all rows, and the limit that it must reach (`at_least`) or stay under."""

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


def fastest_baseline(rows: Sequence[KernelTiming], shape: str) -> Figure:
    """The time of the fastest of `BASELINES` over ours."""
    found = _counted(rows, "masked_attention", shape)
    missing = [name for name in BASELINES if name not in found]
    ratios = {name: found[name][0] for name in BASELINES if name in found}
    if not ratios or OURS not in found:
        return Figure()
    best = min(ratios, key=lambda name: ratios[name].median)
    return Figure(ratios[best], best + (f"; without {', '.join(missing)}" if missing else ""))


def bias_cost(rows: Sequence[KernelTiming]) -> Figure:
    """Our time with a bias over that without, at the shape where it is largest."""
    name = f"{OURS}, no bias"
    found = [_counted(rows, "masked_attention", shape).get(name) for shape in GOAL_SHAPES]
    # A row's ratio is its time over ours, which has the bias.
    costs = [Figure(each[0].inverse(), each[1]) for each in found if each is not None]
    return max(costs, key=_median) if len(costs) == len(found) else Figure()


def least_gain(rows: Sequence[KernelTiming], kernel: str, name: str) -> Figure:
    """Another implementation's time over ours, at the shape where it is smallest."""
    shapes = dict.fromkeys(row.shape for row in rows)
    found = (_counted(rows, kernel, shape).get(name) for shape in shapes)
    return min((Figure(*each) for each in found if each is not None), key=_median, default=Figure())


def _median(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value.median


def _counted(rows: Sequence[KernelTiming], kernel: str, shape: str) -> dict[str, tuple[Ratio, str]]:
    """Ratios and shape by implementation, with a warm cache; none where PyTorch ran for ours."""
    found = {
        row.implementation: row
        for row in rows
        if (row.kernel, row.shape, row.cache) == (kernel, shape, "warm") and row.measured
    }
    if OURS not in found or found[OURS].path != "triton":
        return {}
    return {name: (row.ratio, shape) for name, row in found.items() if row.ratio is not None}


_FASTEST = "masked_attention, {}, compared with the fastest baseline"
_BIAS = "masked_attention, time with a bias / without, the worst shape"
_WINDOWS = "window attention compared with SAM2's own, the worst shape"
_HARD = "hard focus at 30% kept, ViT-L-14-336, B 64, end to end"
GOALS = (
    *(
        Goal(_FASTEST.format(shape), limit, True, partial(fastest_baseline, shape=shape))
        for shape, limit in GOAL_SHAPES.items()
    ),
    Goal(_BIAS, 1.05, False, bias_cost),
    Goal(_WINDOWS, 1.5, True, partial(least_gain, kernel="window_attention", name=SAM2)),
    Goal(_HARD, 2.0, True, partial(least_gain, kernel="hard focus", name=DENSE)),
)


def missed(rows: Sequence[KernelTiming], device: str | None) -> Iterator[str]:
    """Goals that were not met, or not measured, on the device that they are for."""
    if device is not None and GOAL_DEVICE in device:
        for goal in GOALS:
            verdict = goal.verdict(rows)
            if verdict != "met":
                yield f"goal {verdict}: {goal.text}"


def goals_table(rows: Sequence[KernelTiming], device: str | None) -> str:
    """One line per goal, and the device's name if it is another one."""
    title = f"Goals for an {GOAL_DEVICE}, bfloat16; ratios of times, warm, with 95% intervals"
    if device is not None and GOAL_DEVICE not in device:
        title += f" (this is {device})"
    lines = [title]
    width = max(len(goal.text) for goal in GOALS)
    for goal in GOALS:
        (value, note), sign = goal.figure(rows), "≥" if goal.at_least else "≤"
        text = f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]" if value else "-"
        line = f"{goal.text:{width}}  {sign} {goal.limit:.2f}  {text:17}  {goal.verdict(rows):12}"
        lines.append(f"{line}  ({note})" if note else line.rstrip())
    return "\n".join(lines)
