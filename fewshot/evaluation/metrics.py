"""How good answers are: accuracy in several averages, ranking, calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)

from medfocus.errors import InputError

BINS = 15
_TOLERANCE = 1e-4  # float32 probabilities of many classes add up to 1 within this

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Metrics:
    """Of N answers to C classes.

    Attributes:
        images: N.
        accuracy: share of right answers.
        balanced_accuracy: mean over the classes in the labels of the share found.
        macro_f1: mean over all classes of F1; 0 for a class that is neither true nor answered.
        auroc: mean over the classes of one against the rest; None where a class has no image.
        ece: expected calibration error.
        confusion: (C, C) counts, a row a true class.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None
    ece: float
    confusion: tuple[tuple[int, ...], ...]


def measure(probabilities: Probabilities, labels: Labels) -> Metrics:
    """All metrics of one run.

    Args:
        probabilities: (N, C), rows that add up to 1; labels: (N,) in [0, C).

    Raises:
        InputError: what is no probabilities with their labels.
    """
    _check(probabilities, labels)
    classes = [*range(probabilities.shape[1])]
    answers = probabilities.argmax(1)
    counts = confusion_matrix(labels, answers, labels=classes)
    found = np.unique(labels)
    recalls = [counts[k, k] / counts[k].sum() for k in found]
    return Metrics(
        images=len(labels),
        accuracy=float(accuracy_score(labels, answers)),
        balanced_accuracy=float(np.mean(recalls)),
        macro_f1=float(f1_score(labels, answers, labels=classes, average="macro", zero_division=0)),
        auroc=_auroc(probabilities, labels) if len(found) == len(classes) > 1 else None,
        ece=expected_calibration_error(probabilities, labels),
        confusion=tuple(tuple(row) for row in counts.tolist()),
    )


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers by how sure they were.

    Attributes:
        count: (bins,) how many answers; confidence, accuracy: (bins,) their means, 0 where none.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> Reliability:
    """Group answers into `bins` equal parts of [0, 1] by their top probability.

    A bin holds its upper edge and not its lower one, as in Guo et al. 2017 (arXiv 1706.04599).
    """
    _check(probabilities, labels)
    top = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    # Looked up among the edges: top * bins is off by a rounding at 7/25 and its like.
    place = np.searchsorted(np.arange(1, bins) / bins, top)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    confidence = np.bincount(place, weights=top, minlength=bins) / some
    accuracy = np.bincount(place, weights=right, minlength=bins) / some
    return Reliability(count, confidence, accuracy)


def expected_calibration_error(
    probabilities: Probabilities, labels: Labels, bins: int = BINS
) -> float:
    """Mean distance of confidence and accuracy over the answers (Guo et al. 2017)."""
    groups = reliability(probabilities, labels, bins)
    gaps = np.abs(groups.confidence - groups.accuracy)
    return float((groups.count * gaps).sum() / groups.count.sum())


def _auroc(probabilities: Probabilities, labels: Labels) -> float:
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    truths = [labels == k for k in range(probabilities.shape[1])]
    one_vs_rest = [roc_auc_score(truth, probabilities[:, k]) for k, truth in enumerate(truths)]
    return float(np.mean(one_vs_rest))


def _check(probabilities: Probabilities, labels: Labels) -> None:
    shapes = f"{probabilities.shape} with labels {labels.shape}"
    hint = "give (N, C) probabilities and (N,) labels in [0, C)"
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise InputError("probabilities", f"are of shape {shapes}", hint)
    sums = probabilities.sum(1, dtype=np.float64)
    if not (np.isfinite(sums).all() and (probabilities >= 0).all()):
        raise InputError("probabilities", "hold what is no probability", hint)
    if np.abs(sums - 1).max() > _TOLERANCE:
        raise InputError("probabilities", "do not add up to 1", hint)
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise InputError("labels", "are not all in [0, C)", hint)
