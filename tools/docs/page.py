"""What the pages of docs/ that are written from recorded results have in common."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; the first column to the left, all others to the right."""
    head = [line(names), "|---|" + "---:|" * (len(names) - 1)]
    return "\n".join([*head, *map(line, rows)])


def line(cells: Sequence[Any]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def write_page(
    module: str,
    names: Sequence[str],
    render: Callable[[dict[str, Any]], str],
    pictures: Mapping[str, Callable[[dict[str, Any]], str]] = MappingProxyType({}),
) -> None:
    """`python -m MODULE RESULTS -o PAGE`: read a folder's JSON files by name, write the page.

    Pictures, SVG texts by name, are written to `images/` beside the page.
    """
    parser = argparse.ArgumentParser(prog=f"python -m medfocus.benchmarks.{module}")
    parser.add_argument("results", type=Path, help=f"the folder of {', '.join(names)}, all .json")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    texts = {name: (options.results / f"{name}.json").read_text("utf-8") for name in names}
    results = {name: json.loads(text) for name, text in texts.items()}
    options.out.write_text(render(results), "utf-8")
    for name, draw in pictures.items():
        (options.out.parent / "images" / f"{name}.svg").write_text(draw(results), "utf-8")
