"""Metrics compared with results by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.metrics import expected_calibration_error, measure, reliability
from tests.errors import refuses


def answers(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.6), images)
    return probabilities, rng.integers(classes, size=images)


def test_by_hand() -> None:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.5, 0.1]]
    )
    metrics = measure(probabilities, np.array([0, 1, 1, 2, 1]))
    assert metrics.images == 5
    assert metrics.accuracy == 4 / 5
    assert metrics.confusion == ((1, 0, 0), (1, 2, 0), (0, 0, 1))
    assert metrics.balanced_accuracy == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)


def test_f1_of_absent_classes() -> None:
    """0 for a class neither in labels nor in predictions, included in the mean over all four."""
    probabilities = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.8, 0.1, 0.0], [0.6, 0.4, 0.0, 0.0]])
    metrics = measure(probabilities, np.array([0, 1, 1]))
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert metrics.balanced_accuracy == pytest.approx((1 + 1 / 2) / 2)
    assert metrics.auroc is None


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 5))
def test_against_brute_force(seed: int, images: int, classes: int) -> None:
    probabilities, labels = answers(seed, images, classes)
    metrics = measure(probabilities, labels)
    areas = []
    for label in range(classes):
        scores = probabilities[:, label]
        pairs = [
            float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j])
            for i in np.flatnonzero(labels == label)
            for j in np.flatnonzero(labels != label)
        ]
        areas.append(float(np.mean(pairs)) if pairs else np.nan)
    if len(set(labels.tolist())) < classes:
        assert metrics.auroc is None
    else:
        assert metrics.auroc == pytest.approx(np.mean(areas))
    recalls = [
        np.mean(probabilities[labels == label].argmax(1) == label) for label in set(labels.tolist())
    ]
    assert metrics.balanced_accuracy == pytest.approx(np.mean(recalls))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 20))
def test_calibration_error_bin_by_bin(seed: int, images: int, bins: int) -> None:
    probabilities, labels = answers(seed, images, 3)
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for number in range(bins):
        inside = (top > number / bins) & (top <= (number + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected)
    assert reliability(probabilities, labels, bins).count.sum() == images


@pytest.mark.parametrize("bins", [10, 15, 25, 29, 35])
def test_an_upper_edge_belongs_to_its_bin(bins: int) -> None:
    """Also if the edge times the number of bins has a rounding error, for example 7/25 · 25."""
    for number in range(1, bins + 1):
        top = number / bins
        probabilities = np.array([[top] + [(1 - top) / bins] * bins])
        groups = reliability(probabilities, np.zeros(1, int), bins)
        assert np.flatnonzero(groups.count).tolist() == [number - 1]
        assert groups.confidence[number - 1] == top
        assert groups.accuracy[number - 1] == 1


@pytest.mark.parametrize(
    ("probabilities", "labels", "code", "item"),
    [
        (np.ones((2, 1, 1)), np.zeros(2, int), "input.shape_mismatch", "probabilities"),
        (np.full((2, 2), 0.5), np.zeros(3, int), "input.shape_mismatch", "probabilities"),
        (np.empty((0, 2)), np.empty(0, int), "input.shape_mismatch", "probabilities"),
        (np.full((2, 2), 0.6), np.zeros(2, int), "input.not_probabilities", "probabilities"),
        (np.array([[1.5, -0.5]]), np.zeros(1, int), "input.not_probabilities", "probabilities"),
        (np.array([[np.nan, 1.0]]), np.zeros(1, int), "input.not_probabilities", "probabilities"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "input.out_of_range", "labels"),
        (np.full((2, 2), 0.5), np.array([0, -1]), "input.out_of_range", "labels"),
    ],
)
def test_invalid_input(probabilities: np.ndarray, labels: np.ndarray, code: str, item: str) -> None:
    with refuses(InputError, code, item):
        measure(probabilities, labels)
