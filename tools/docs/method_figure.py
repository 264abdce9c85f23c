"""Draws docs/images/method.svg, the accuracy of the study: `python -m tools.docs.method_figure`."""

from pathlib import Path

from medfocus.fewshot.evaluation.intervals import Interval
from medfocus.fewshot.study.reporting.plots import accuracy_figure
from medfocus.fewshot.study.reporting.summary import SettingSummary
from tools.docs.results import read

PICTURE = Path(__file__).parents[2] / "docs/images/method.svg"


def main() -> None:
    """Draw the study's last adaptation."""
    rows = []
    for row in read("cpu/fewshot.json:rows"):
        intervals = {name: row[name] and Interval(*row[name]) for name in ("accuracy", "gain")}
        rows.append(SettingSummary(**{**row, **intervals}))
    PICTURE.write_text(accuracy_figure(rows, rows[-1].adaptation), "utf-8")


if __name__ == "__main__":
    main()
