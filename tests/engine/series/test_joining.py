"""How slices become one answer: compared with the formulas, written out in Python's floats."""

from fractions import Fraction

import numpy as np
import pytest

from medfocus.engine.series.joining import joined
from medfocus.errors import InputError
from medfocus.settings import join_slices
from tests.errors import refuses

# Four slices, three classes; in 256ths, so that every sum is exact.
SLICES = [[128, 64, 64], [16, 224, 16], [0, 96, 160], [200, 50, 6]]
PROBABILITIES = np.array(SLICES) / 256
SCORES = [0.4, None, 0.9, 0.9]


def exactly(weights: list[Fraction]) -> list[float]:
    return [float(weight / sum(weights)) for weight in weights]


def mean(rows: list[list[int]]) -> list[float]:
    return exactly([Fraction(sum(column)) for column in zip(*rows, strict=True)])


def test_mean() -> None:
    answer, evidence, notices = joined(PROBABILITIES, SCORES, "mean")
    np.testing.assert_allclose(answer, mean(SLICES), rtol=1e-15)
    assert (int(answer.argmax()), evidence, notices) == (1, 1, ())


def test_max() -> None:
    answer, evidence, _ = joined(PROBABILITIES, SCORES, "max")
    expected = exactly([Fraction(max(column)) for column in zip(*SLICES, strict=True)])
    np.testing.assert_allclose(answer, expected, rtol=1e-15)
    assert (int(answer.argmax()), evidence) == (1, 1)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("focused:1", [2]),  # the first of two of the same score
        ("focused:2", [2, 3]),
        ("focused:3", [0, 2, 3]),
        ("focused:9", [0, 2, 3]),  # there are no more
    ],
)
def test_mean_of_the_best_focused(rule: str, kept: list[int]) -> None:
    answer, evidence, notices = joined(PROBABILITIES, SCORES, rule)
    rows = [SLICES[number] for number in kept]
    np.testing.assert_allclose(answer, mean(rows), rtol=1e-15)
    best = int(answer.argmax())
    assert evidence == max(kept, key=lambda number: SLICES[number][best])
    assert not notices


def test_if_nothing_is_focused_all_slices_count() -> None:
    answer, _, notices = joined(PROBABILITIES, [None] * 4, "focused:2")
    np.testing.assert_allclose(answer, mean(SLICES), rtol=1e-15)
    assert [notice.code for notice in notices] == ["series.none_focused"]


def test_the_evidence_is_of_the_joined_label_and_the_first_of_several() -> None:
    """The slice that is surest of anything is not the evidence of something else."""
    rows = np.array([[0.6, 0.4], [0.05, 0.95], [0.7, 0.3], [0.7, 0.3]])
    answer, evidence, _ = joined(rows, [None] * 4, "mean")
    assert (int(answer.argmax()), evidence) == (0, 2)


@pytest.mark.parametrize("rule", ["mean", "max", "focused:1"])
def test_one_slice_stays_what_it_is(rule: str) -> None:
    answer, evidence, _ = joined(PROBABILITIES[:1], [0.5], rule)
    np.testing.assert_allclose(answer, PROBABILITIES[0], rtol=1e-15)
    assert evidence == 0


@pytest.mark.parametrize("rule", ["", "Mean", "focused", "focused:0", "focused:-1", "focused:1.5"])
def test_other_rules_are_refused(rule: str) -> None:
    with refuses(InputError, "input.unknown_choice", "join"):
        join_slices(rule)
