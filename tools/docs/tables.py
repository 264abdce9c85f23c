"""What a marker can insert: one value, tables of any result file, and a few tables of their own."""

import json
import re
from typing import Any

from tools.docs.results import RESULTS, formatter, read, select, table


def value(source: str, form: str = "") -> str:
    """One value: `value cpu/tiny.json:few_shot_soft.accuracy .1%`."""
    return str(formatter.format_field(read(source), form))


def rows(source: str, *arguments: str) -> str:
    """One line per entry of a list.

    Args:
        source: see `read`.
        arguments: conditions (see `select`), and columns, `name: {key:.1%}`: a heading and a cell.
    """
    names, lines = _columns(source, arguments)
    return table(names, lines)


def columns(source: str, *arguments: str) -> str:
    """`rows`, transposed: one column per entry."""
    names, lines = _columns(source, arguments)
    head, *rest = zip(names, *lines, strict=True)
    return table(head, rest)


def pivot(source: str, *arguments: str) -> str:
    """One line per combination of some keys, one column per value of another key.

    Args:
        source: see `read`.
        arguments: conditions, then the keys that go down, joined by commas, the key that goes
            across, and the format of a cell.
    """
    *conditions, down, across, form = arguments
    found = select(read(source), conditions)
    names = list(dict.fromkeys(str(row[across]) for row in found))
    lines: dict[str, dict[str, str]] = {}
    for row in found:
        name = ", ".join(str(row[key]) for key in down.split(","))
        lines.setdefault(name, {})[str(row[across])] = _cell(form, row)
    body = [[name, *(cells.get(each, "") for each in names)] for name, cells in lines.items()]
    return table(["", *names], body)


def limits() -> str:
    """The parity gate's limits, one column per precision: the code's own."""
    from medfocus.engine.artifact.parity import THRESHOLDS
    from medfocus.export.validate.comparison import SEGMENTER_SIZE

    precisions: dict[str, Any] = dict(THRESHOLDS.items()) | {"segmenter size": SEGMENTER_SIZE}
    body = [
        [name.replace("_", " "), *(f"{getattr(limit, name):g}" for limit in precisions.values())]
        for name in vars(SEGMENTER_SIZE)
    ]
    return table(("limit", *precisions), body)


def gpu_goals(of: str) -> str:
    """The goals of `pipeline` or `kernels`, one column per GPU on which they were measured."""
    from medfocus.benchmarks.bench.kernels.rows import KernelTiming
    from medfocus.benchmarks.bench.report.rows import row_of
    from medfocus.benchmarks.gpu.goals import GOALS as KERNEL_GOALS
    from medfocus.benchmarks.gpu.pipeline.goals import AT_MOST, GOALS, verdict

    columns: dict[str, list[str]] = {}
    if of == "pipeline":
        goals = [(name, name not in AT_MOST, limit) for name, limit in GOALS.items()]
        for run in _of_gpus("pipeline.json"):
            found = {name: run["goals"].get(name) for name in GOALS}
            columns[_device(run["environment"])] = [
                f"{x:.3f}, {verdict(name, x)}" if x is not None else "not measured"
                for name, x in found.items()
            ]
    else:
        goals = [(goal.text, goal.at_least, goal.limit) for goal in KERNEL_GOALS]
        for run in _of_gpus("gpu_check.json"):
            rows = [row_of(KernelTiming, row) for row in run]
            columns[_device(run[0]["environment"])] = [
                f"{value.median:.2f}, {goal.verdict(rows)}" if value else "not measured"
                for goal in KERNEL_GOALS
                for value in [goal.figure(rows).value]
            ]
    columns = columns or {"measured": ["not measured"] * len(goals)}
    limits = [f"at {'least' if least else 'most'} {limit:g}" for _, least, limit in goals]
    names = [name for name, *_ in goals]
    body = list(zip(names, limits, *columns.values(), strict=True))
    return table(("", "goal", *columns), body)


def _of_gpus(name: str) -> list[Any]:
    """A result file of each GPU."""
    files = sorted(file for file in RESULTS.glob(f"*/{name}") if file.parent.name != "cpu")
    return [json.loads(file.read_text("utf-8")) for file in files]


def _device(environment: dict[str, Any]) -> str:
    return f"{environment['device']}, {environment['date'][:10]}"


def _columns(source: str, arguments: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    conditions = [each for each in arguments if re.match(r"\w+[=~]", each)]
    chosen = [each.partition(": ") for each in arguments if each not in conditions]
    found = select(read(source), conditions)
    body = [[_cell(form, row) for _, _, form in chosen] for row in found]
    return [name for name, _, _ in chosen], body


def _cell(form: str, row: dict[str, Any]) -> str:
    """Empty where what it shows is null."""
    needed = {re.match(r"\w+", name).group() for _, name, *_ in formatter.parse(form) if name}  # type: ignore[union-attr]
    return "" if any(row[key] is None for key in needed) else formatter.vformat(form, (), row)
