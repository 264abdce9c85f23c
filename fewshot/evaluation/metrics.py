"""Metrics of a classifier: accuracy, F1, AUROC, calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, recall_score, roc_auc_score
from sklearn.preprocessing import label_binarize

from medfocus.errors import InputError

BINS = 15
_TOLERANCE = 1e-4  # of the sum of float32 probabilities of many classes

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Metrics:
    """Metrics of N predictions over C classes.

    Attributes:
        images: N.
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall of the classes that occur in the labels.
        macro_f1: mean F1 of all classes; 0 for a class neither in labels nor in predictions.
        auroc: mean one-vs-rest AUROC; None if a class has no image.
        ece: expected calibration error.
        confusion: (C, C) counts, one row per true class.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None
    ece: float
    confusion: tuple[tuple[int, ...], ...]


def measure(probabilities: Probabilities, labels: Labels) -> Metrics:
    """Compute all metrics.

    Args:
        probabilities: (N, C), rows with sum 1; labels: (N,) in [0, C).

    Raises:
        InputError: invalid probabilities, or labels that do not fit them.
    """
    _check(probabilities, labels)
    classes = [*range(probabilities.shape[1])]
    answers = probabilities.argmax(1)
    found = np.unique(labels)
    auroc = None
    if len(found) == len(classes) > 1:
        # One column per class; of two classes only the second.
        scores = probabilities[:, 1:] if len(classes) == 2 else probabilities
        auroc = float(roc_auc_score(label_binarize(labels, classes=classes), scores))
    return Metrics(
        images=len(labels),
        accuracy=float((answers == labels).mean()),
        balanced_accuracy=float(recall_score(labels, answers, labels=found, average="macro")),
        macro_f1=float(f1_score(labels, answers, labels=classes, average="macro", zero_division=0)),
        auroc=auroc,
        ece=expected_calibration_error(probabilities, labels),
        confusion=tuple(
            tuple(row) for row in confusion_matrix(labels, answers, labels=classes).tolist()
        ),
    )


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: predictions binned by confidence.

    Attributes:
        count: (bins,) predictions; confidence, accuracy: (bins,) their means, 0 in empty bins.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> Reliability:
    """Bin predictions by their top probability into `bins` equal parts of [0, 1].

    A bin includes its upper edge and excludes its lower one, as in Guo et al. 2017 (arXiv
    1706.04599). Scikit-learn's `calibration_curve` handles two classes only.
    """
    _check(probabilities, labels)
    top = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    # Searched among the edges: top * bins has rounding errors, for example at 7/25.
    place = np.searchsorted(np.arange(1, bins) / bins, top)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    confidence = np.bincount(place, weights=top, minlength=bins) / some
    accuracy = np.bincount(place, weights=correct, minlength=bins) / some
    return Reliability(count, confidence, accuracy)


def expected_calibration_error(
    probabilities: Probabilities, labels: Labels, bins: int = BINS
) -> float:
    """Mean gap between confidence and accuracy (Guo et al. 2017, arXiv 1706.04599)."""
    groups = reliability(probabilities, labels, bins)
    gaps = np.abs(groups.confidence - groups.accuracy)
    return float((groups.count * gaps).sum() / groups.count.sum())


def _check(probabilities: Probabilities, labels: Labels) -> None:
    hint = "pass (N, C) probabilities and (N,) labels in [0, C)"
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        shapes = f"have the shape {probabilities.shape} with labels of {labels.shape}"
        raise InputError("probabilities", shapes, hint, code="input.shape_mismatch")
    sums = probabilities.sum(1, dtype=np.float64)
    if not (np.isfinite(sums).all() and (probabilities >= 0).all()):
        problem = "contain negative values or values that are not finite"
        raise InputError("probabilities", problem, hint, code="input.not_probabilities")
    if np.abs(sums - 1).max() > _TOLERANCE:
        raise InputError("probabilities", "do not sum to 1", hint, code="input.not_probabilities")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise InputError("labels", "are not all in [0, C)", hint, code="input.out_of_range")
