"""The kernels' goals for Hopper in bfloat16, and whether the rows meet them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from medfocus.benchmarks.baselines.encoder_blocks import DENSE, SAM2
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.gpu.pipeline.goals import GOAL_DEVICES, has_goals

BASELINES = ("SDPA efficient", "SDPA cuDNN", "FlexAttention")
FLASH = "FlashAttention-4"
# Least ratios to the fastest of `BASELINES`, and to `FLASH`.
GOAL_SHAPES = {
    "B256 H12 N197 D64": (1.15, 1.2),
    "B256 H16 N257 D64": (1.3, 1.1),
    "B64 H16 N577 D64": (1.0, 0.9),
}


class Figure(NamedTuple):
    """What was measured for a goal, if it was, and with what or at which shape."""

    value: Ratio | None = None
    note: str = ""


class Goal(NamedTuple):
    """A figure of a part's rows, and the limit that it must reach (`at_least`) or stay under."""

    part: str
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


def fastest(rows: Sequence[KernelTiming], shape: str, baselines: Sequence[str]) -> Figure:
    """The time of the fastest of some baselines over ours."""
    found = _counted(rows, "masked_attention", shape)
    missing = [name for name in baselines if name not in found]
    ratios = {name: found[name][0] for name in baselines if name in found}
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


_ATTENTION = "masked_attention, {}, compared with {}"
_BIAS = "masked_attention, time with a bias / without, the worst shape"
_WINDOWS = "window attention compared with SAM2's own, the worst shape"
_HARD = "hard focus at 30% kept, ViT-L-14-336, B 64, end to end"


def _attention(shape: str, limit: float, name: str, baselines: Sequence[str]) -> Goal:
    figure = partial(fastest, shape=shape, baselines=baselines)
    return Goal("attention", _ATTENTION.format(shape, name), limit, True, figure)


GOALS = (
    *(
        _attention(shape, limit, "the fastest baseline", BASELINES)
        for shape, (limit, _) in GOAL_SHAPES.items()
    ),
    *(_attention(shape, limit, FLASH, [FLASH]) for shape, (_, limit) in GOAL_SHAPES.items()),
    Goal("attention", _BIAS, 1.05, False, bias_cost),
    Goal("windows", _WINDOWS, 1.5, True, partial(least_gain, kernel="window_attention", name=SAM2)),
    Goal("hard", _HARD, 2.0, True, partial(least_gain, kernel="hard focus", name=DENSE)),
)


def missed(rows: Sequence[KernelTiming], device: str | None, parts: Sequence[str]) -> Iterator[str]:
    """The goals of `parts` that were not met, or not measured, on a device that they are for."""
    if has_goals(device):
        for goal in GOALS:
            verdict = goal.verdict(rows)
            if goal.part in parts and verdict != "met":
                yield f"goal {verdict}: {goal.text}"


def goals_table(rows: Sequence[KernelTiming], device: str | None) -> str:
    """One line per goal, and the device's name if it is another one."""
    devices = " and ".join(GOAL_DEVICES)
    title = f"Goals for {devices}, bfloat16; ratios of times, warm, with 95% intervals"
    if device is not None and not has_goals(device):
        title += f" (this is {device})"
    lines = [title]
    width = max(len(goal.text) for goal in GOALS)
    for goal in GOALS:
        (value, note), sign = goal.figure(rows), "≥" if goal.at_least else "≤"
        text = f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]" if value else "-"
        line = f"{goal.text:{width}}  {sign} {goal.limit:.2f}  {text:17}  {goal.verdict(rows):12}"
        lines.append(f"{line}  ({note})" if note else line.rstrip())
    return "\n".join(lines)
