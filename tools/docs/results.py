"""Result files: reading, selecting and formatting."""

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


class _Formatter(string.Formatter):
    """`str.format`, with `p` for percentage points: 100 times the number, without `%`.

    A list is written with spaces, a dictionary of counts as `11 HGMMA, 4 HMMA`.
    """

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec.endswith("p"):
            return format(100 * value, f"{format_spec[:-1]}f")
        if isinstance(value, dict):
            return ", ".join(f"{count} {name}" for name, count in value.items())
        if isinstance(value, list):
            return " ".join(format(each, format_spec) for each in value)
        return super().format_field(value, format_spec)


formatter = _Formatter()


def read(source: str) -> Any:
    """A JSON file below benchmarks/results, or a part of it.

    Args:
        source: `cpu/tiny.json`, or `cpu/tiny.json:few_shot_soft.accuracy`: keys and list positions
            joined by dots. Several keys joined by commas give a list of their dictionaries, each
            with its key as `key`.
    """
    file, _, path = source.partition(":")
    found = _file(file)
    for key in path.split(".") if path else ():
        if "," in key:
            return [{**found[each], "key": each.replace("_", " ")} for each in key.split(",")]
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


@cache
def _file(name: str) -> Any:
    return json.loads((RESULTS / name).read_text("utf-8"))


def select(rows: Iterable[Mapping[str, Any]], conditions: Iterable[str]) -> list[dict[str, Any]]:
    """The rows that meet all conditions: `key=value`, or `key~pattern` for a regular expression."""
    found = [dict(row) for row in rows]
    for condition in conditions:
        key, sign, wanted = re.fullmatch(r"(\w+)([=~])(.*)", condition).groups()  # type: ignore[union-attr]
        pattern = re.compile(re.escape(wanted) if sign == "=" else wanted)
        matches = pattern.fullmatch if sign == "=" else pattern.search
        found = [row for row in found if matches(str(row[key]))]
    return found


def table(names: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; the first column aligned left, all others right."""
    head = [_line(names), "|---|" + "---:|" * (len(names) - 1)]
    return "\n".join([*head, *map(_line, rows)])


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
