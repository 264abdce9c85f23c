"""Our results next to the paper's, in the layout of its table."""

from collections.abc import Sequence

from rich.table import Table

from medfocus.fewshot.evaluation.intervals import wilson
from medfocus.fewshot.study.reporting.summary import SettingSummary

# MedFocusCLIP, arXiv 2501.03839: accuracy in percent at each fraction of the training images.
PAPER: dict[str, dict[str, float]] = {
    "covid": {"5%": 71.15, "10%": 77.27, "20%": 83.33, "50%": 87.88, "100%": 93.94},
    "lung": {"5%": 81.28, "10%": 82.12, "20%": 84.49, "50%": 85.63, "100%": 91.52},
    "brain": {"5%": 86.09, "10%": 92.12, "20%": 94.91, "50%": 96.28, "100%": 97.57},
    "breast": {"5%": 58.63, "10%": 69.06, "20%": 76.22, "50%": 97.39, "100%": 96.09},
}
# CLIP without segmentation at 5%, from the same paper.
PAPER_PLAIN = {"covid": 66.0, "lung": 70.0, "brain": 68.0, "breast": 29.0}
# Number of test images, if known; it is needed for an interval.
PAPER_IMAGES = {"covid": 66}


def paper_table(rows: Sequence[SettingSummary], adaptation: str, phantoms: bool) -> Table:
    """Accuracy by data set and fraction: ours with focus `none` and `soft`, and the paper's.

    Args:
        rows: of a study whose data sets are named as in `PAPER`.
        adaptation: selects the rows.
        phantoms: whether ours are on phantoms; the title then says so.
    """
    title = f"The paper's protocol, {adaptation}"
    if phantoms:
        title += ": ours on phantoms, the paper's on patients' images; not to be compared"
    table = Table(title=title)
    table.add_column("data set")
    for name in ("images", "ours, none", "ours, soft", "paper, CLIP", "paper, MedFocusCLIP"):
        table.add_column(name, justify="right", no_wrap=True)
    ours = {(row.dataset, row.amount, row.focus): row for row in rows if _is_shown(row, adaptation)}
    run = {dataset for dataset, _, _ in ours}
    for dataset, published in PAPER.items():
        if dataset not in run:
            continue
        for amount, accuracy in published.items():
            plain = f"{PAPER_PLAIN[dataset]:.0f}%" if amount == "5%" else ""
            mine = [_interval(ours.get((dataset, amount, mode))) for mode in ("none", "soft")]
            table.add_row(dataset, amount, *mine, plain, _published(dataset, accuracy))
        table.add_section()
    return table


def _is_shown(row: SettingSummary, adaptation: str) -> bool:
    return row.adaptation == adaptation and row.masks == "found"


def _interval(row: SettingSummary | None) -> str:
    if row is None:
        return "not run"
    return f"{row.accuracy.mean:.1%} ({row.accuracy.low:.0%} to {row.accuracy.high:.0%})"


def _published(dataset: str, percent: float) -> str:
    if dataset not in PAPER_IMAGES:
        return f"{percent:.2f}%"
    images = PAPER_IMAGES[dataset]
    _, low, high = wilson(round(percent / 100 * images), images)
    return f"{percent:.2f}% ({low:.0%} to {high:.0%})"
