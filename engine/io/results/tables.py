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


def csv_text(rows: list[ResultRow], classes: Sequence[str]) -> str:
    """CSV with one line per image or study, and one probability column per class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"probability:{name}" for name in classes]
    head = ["source", "label", "probability", "focused", "focus_score"]
    grouped = any("slices" in row for row in rows)
    study = ["joined", "slices", "evidence"] if grouped else []
    writer.writerow([*head, *columns, *study, "warnings", "error"])
    for row in rows:
        probabilities = row["probabilities"]
        writer.writerow(
            [
                row["source"],
                row["label"],
                probabilities.get(row["label"]),
                "true" if row["focused"] else "false",
                row["focus_score"],
                *(probabilities.get(name) for name in classes),
                *([row["joined"], len(row["slices"]), row["evidence"]] if grouped else []),
                "; ".join(row["warnings"]),
                row["error"],
            ]
        )
    return text.getvalue()


def table(rows: list[ResultRow]) -> Table:
    """A table for the terminal, without the folder that all files share.

    The column `focus` holds the focus score, or "no" if no region steered the classifier. The
    column of messages is there only if there are any. Studies have one more, the slice that is
    their evidence; the focus is its.
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
        probability, score = row["probabilities"].get(row["label"]), row["focus_score"]
        cells = [
            _name(row["source"][shared:].lstrip()),
            printable(row["label"] or ""),
            "" if probability is None else f"{probability:.1%}",
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
