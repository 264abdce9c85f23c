"""Predictions as a table for the terminal, as CSV, as JSON and as JSON Lines."""

import csv
import io
import json
import os
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from medfocus.engine.io.results.journal import ResultRow
from medfocus.terminal import printable


def json_text(rows: list[ResultRow]) -> str:
    """A JSON list with one object per image, from `Prediction.to_dict`."""
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def jsonl_text(rows: list[ResultRow]) -> str:
    """JSON Lines: one object per image and line, from `Prediction.to_json`."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def most_probable(row: ResultRow, count: int) -> ResultRow:
    """A row, and those of its slices, with the `count` most probable classes only, best first."""
    ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    limited = row | {"probabilities": dict(ranked[:count])}
    if "slices" in row:
        limited["slices"] = [most_probable(each, count) for each in row["slices"]]
    return limited


def csv_text(rows: list[ResultRow], classes: Sequence[str], top_k: int | None = None) -> str:
    """CSV with one line per image or study.

    Args:
        rows: one per image or study.
        classes: of the engine; each has a column with its probability.
        top_k: in place of those, two columns for each of so many most probable classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if top_k is None:
        columns = [f"probability:{name}" for name in classes]
    else:
        places = range(1, min(top_k, len(classes)) + 1)
        columns = [f"{name}_{place}" for place in places for name in ("label", "probability")]
    head = ["source", "label", "probability", "focused", "focus_score"]
    grouped = any("slices" in row for row in rows)
    study = ["joined", "slices", "evidence"] if grouped else []
    writer.writerow([*head, *columns, *study, "warnings", "error"])
    for row in rows:
        probabilities = row["probabilities"]
        if top_k is None:
            cells = [probabilities.get(name) for name in classes]
        else:
            ranked = most_probable(row, top_k)["probabilities"].items()
            cells = [cell for pair in ranked for cell in pair]
            cells += [None] * (len(columns) - len(cells))
        writer.writerow(
            [
                row["source"],
                row["label"],
                probabilities.get(row["label"]),
                "true" if row["focused"] else "false",
                row["focus_score"],
                *cells,
                *([row["joined"], len(row["slices"]), row["evidence"]] if grouped else []),
                "; ".join(row["warnings"]),
                row["error"],
            ]
        )
    return text.getvalue()


def table(rows: list[ResultRow], top_k: int = 1) -> Table:
    """A table for the terminal, without the folder that all files share.

    An image or study has a line for each of the `top_k` most probable classes. The column `focus`
    holds the focus score, or "no" if no region steered the classifier. The column of messages is
    there only if there are any. Studies have one more, the slice that is their evidence; the focus
    is its.
    """
    grouped = any("slices" in row for row in rows)
    notes = [_note(row) for row in rows]
    result = Table()
    for name in ("source", "label"):
        result.add_column(name, overflow="fold")
    for name in ("probability", "focus"):
        result.add_column(name, justify="right", no_wrap=True)
    if grouped:
        result.add_column("evidence", overflow="fold")
    if any(notes):
        result.add_column("warnings, error", overflow="fold")
    shared = len(_shared_folder([row["source"] for row in rows]))
    for row, note in zip(rows, notes, strict=True):
        ranked, score = most_probable(row, top_k)["probabilities"], row["focus_score"]
        cells = [
            _name(row["source"][shared:].lstrip()),
            "\n".join(map(printable, ranked)),
            "\n".join(f"{probability:.1%}" for probability in ranked.values()),
            "" if row["error"] else f"{score:.2f}" if row["focused"] else "no",
        ]
        if grouped:
            cells.append(_name(os.path.basename(row["evidence"] or "")))  # noqa: PTH119
        if any(notes):
            cells.append(printable(note if len(note) <= 60 else f"{note[:59]}…"))
        result.add_row(*map(Text, cells), style="red" if row["error"] else None)
    return result


def _name(source: str) -> str:
    return printable(source if len(source) <= 48 else f"…{source[-47:]}")


def _note(row: ResultRow) -> str:
    error: str | None = row["error"]
    return error.removeprefix(f"{row['source']}: ") if error else "; ".join(row["warnings"])


def _shared_folder(sources: list[str]) -> str:
    """The folder that all sources begin with, with its last separator."""
    prefix = os.path.commonprefix(sources)  # noqa: RUF071  (a prefix of the text, not of the path)
    return prefix[: prefix.rfind(os.sep) + 1]
