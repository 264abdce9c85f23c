"""The figures of a report, as SVG."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from medfocus.fewshot.evaluation.metrics import reliability
from medfocus.fewshot.study.reporting.summary import SettingSummary
from medfocus.fewshot.study.run import Run

# The Okabe-Ito palette, safe for colour-blind readers.
COLOURS = {"none": "#7a7a7a", "overlay": "#e69f00", "soft": "#0072b2", "hard": "#d55e00"}
BINS = 10


def accuracy_figure(rows: Sequence[SettingSummary], adaptation: str) -> str:
    """Accuracy by number of training images, one panel per data set, with 95% bands."""
    shown = [row for row in rows if row.adaptation == adaptation and row.masks == "found"]
    datasets = [*dict.fromkeys(row.dataset for row in shown)]
    figure, panels = _panels(len(datasets))
    for panel, dataset in zip(panels, datasets, strict=True):
        for focus, colour in COLOURS.items():
            line = [row for row in shown if (row.dataset, row.focus) == (dataset, focus)]
            if not line:
                continue
            images = [row.trained_on for row in line]
            accuracies = [row.accuracy for row in line]
            panel.plot(images, [a.mean for a in accuracies], "o-", color=colour, label=focus)
            low, high = [a.low for a in accuracies], [a.high for a in accuracies]
            panel.fill_between(images, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set(title=dataset, xscale="log", xlabel="labelled images")
        amounts = {row.trained_on: row.amount for row in shown if row.dataset == dataset}
        panel.set_xticks([*amounts], [*amounts.values()])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(title="focus", fontsize="small")
    return _svg(figure)


def confusion_figure(runs: Sequence[Run], title: str) -> str:
    """The confusion matrix of pooled runs on one data set, as shares of each true class."""
    classes = runs[0].classes
    counts = np.sum([run.metrics.confusion for run in runs], axis=0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.2 + 0.8 * len(classes), 0.8 + 0.8 * len(classes)))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(classes)):
        for column in range(len(classes)):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{shares[row, column]:.0%}", ha="center", va="center", color=ink
            )
    numbers = [str(number + 1) for number in range(len(classes))]
    axes.set_xticks(range(len(classes)), numbers)
    axes.set_yticks(
        range(len(classes)), [f"{n} {c}" for n, c in zip(numbers, classes, strict=True)]
    )
    axes.set(xlabel="answer", title=title)
    return _svg(figure)


def reliability_figure(runs: Sequence[Run]) -> str:
    """Reliability diagrams of pooled runs, before and after temperature scaling."""
    labels = np.concatenate([run.labels for run in runs])
    figure, panels = _panels(2)
    for panel, title, parts in zip(
        panels,
        ("uncalibrated", "temperature scaled"),
        ([run.probabilities for run in runs], [run.calibrated for run in runs]),
        strict=True,
    ):
        groups = reliability(np.concatenate(parts), labels, BINS)
        some = groups.count > 0
        panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        panel.scatter(
            groups.confidence[some],
            groups.accuracy[some],
            s=10 + 300 * groups.count[some] / groups.count.sum(),
            color=COLOURS["soft"],
        )
        panel.set(title=title, xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    return _svg(figure)


def _panels(count: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(3.2 * count, 3.2), layout="constrained")
    return figure, [*figure.subplots(1, count, sharey=True, squeeze=False)[0]]


def _svg(figure: Figure) -> str:
    """The figure as a reproducible SVG element."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "medfocus", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
