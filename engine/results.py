"""Predictions as a table for a terminal, as CSV, as JSON."""

import csv
import io
import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from medfocus.engine.journal import Row


def json_text(rows: list[Row]) -> str:
    """A list with an object for each image, as `Prediction.to_json` gives it."""
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def csv_text(rows: list[Row], classes: Sequence[str]) -> str:
    """A line for each image, with a column for the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"probability:{name}" for name in classes]
    head = ["source", "label", "probability", "focused", "focus_score"]
    writer.writerow([*head, *columns, "warnings", "error"])
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
                "; ".join(row["warnings"]),
                row["error"],
            ]
        )
    return text.getvalue()


def table(rows: list[Row]) -> Table:
    """The rows for a terminal: long paths lose their beginning, long messages their end."""
    result = Table()
    for name in ("source", "label"):
        result.add_column(name, overflow="fold")
    for name in ("probability", "focused", "focus score"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("warnings, error", overflow="fold")
    for row in rows:
        probability, score, error = (
            row["probabilities"].get(row["label"]),
            row["focus_score"],
            row["error"],
        )
        source = printable(row["source"])
        message = error.removeprefix(f"{row['source']}: ") if error else "; ".join(row["warnings"])
        cells = (
            source if len(source) <= 48 else f"…{source[-47:]}",
            printable(row["label"] or ""),
            "" if probability is None else f"{probability:.1%}",
            "" if error else ("yes" if row["focused"] else "no"),
            "" if score is None else f"{score:.2f}",
            printable(message if len(message) <= 60 else f"{message[:59]}…"),
        )
        result.add_row(*map(Text, cells), style="red" if error else None)
    return result


def printable(text: str) -> str:
    """`text` without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
