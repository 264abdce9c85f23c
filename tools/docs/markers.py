"""Markers in Markdown, between which values and tables from result files are inserted.

In a sentence, one value: the file below benchmarks/results, the path to the value, its format:

    <!-- insert: value cpu/tiny.json:few_shot_soft.accuracy .1% -->95.8%<!-- end -->

By itself, a table: one of INSERTS, and its arguments, split as a shell does it:

    <!-- insert: rows cpu/export_cost.json status=0 "export: {arguments}" "s: {seconds:.0f}" -->

    | export | s |
    ...

    <!-- end -->
"""

import re
import shlex
from collections.abc import Callable

from tools.docs import bench_tables, tables

MARKER = re.compile(r"(<!-- insert: (.+?) -->)(.*?)(<!-- end -->)", re.DOTALL)
INSERTS: dict[str, Callable[..., str]] = {
    "value": tables.value,
    "rows": tables.rows,
    "columns": tables.columns,
    "pivot": tables.pivot,
    "limits": tables.limits,
    "gpu-goals": tables.gpu_goals,
    "bench": bench_tables.bench,
    "speed": bench_tables.speed,
    "stream-speed": bench_tables.stream_speed,
}


def filled(text: str) -> tuple[str, list[str]]:
    """A page with current numbers.

    Args:
        text: of the page, in Markdown.

    Returns:
        The text with every marker's content computed again, and the markers whose content differed.

    Raises:
        ValueError: a marker that is not closed, or names nothing known.
    """
    differing = []

    def replaced(match: re.Match[str]) -> str:
        start, command, old, end = match.groups()
        name, *arguments = shlex.split(command)
        if name not in INSERTS or "<!-- insert:" in old:
            raise ValueError(f"marker {command!r} is unknown or not closed")
        new = INSERTS[name](*arguments)
        new = f"\n\n{new}\n\n" if "\n" in new else new
        if new != old:
            differing.append(command)
        return f"{start}{new}{end}"

    result = MARKER.sub(replaced, text)
    if text.count("<!-- insert:") != len(MARKER.findall(text)):
        raise ValueError("a marker is not closed by <!-- end -->")
    return result, differing
