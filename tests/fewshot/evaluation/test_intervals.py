"""Intervals against their equations, brute force, and simulated studies."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.intervals import (
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    wilson,
)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilsons_interval(level: float) -> None:
    """Against the roots of the score equation |p - share| = z·sqrt(p(1 - p) / n)."""
    z = norm.ppf((1 + level) / 2)
    for successes, trials in ((0, 10), (71, 100), (400, 400)):
        share, *bounds = wilson(successes, trials, level)
        assert share == successes / trials
        for bound in bounds:
            assert abs(bound - share) == pytest.approx(
                z * math.sqrt(max(bound * (1 - bound), 0) / trials), abs=1e-9
            )


def all_resamples(values: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of every way to draw S rows and N columns with replacement: all equally likely."""
    seeds, images = values.shape
    rows = np.array([*itertools.product(range(seeds), repeat=seeds)])  # (S^S, S)
    columns = np.array([*itertools.product(range(images), repeat=images)])  # (N^N, N)
    drawn = values[rows[:, None, :, None], columns[None, :, None, :]]  # (S^S, N^N, S, N)
    return drawn.mean((2, 3)).flatten()


def test_bootstrap_against_every_resample() -> None:
    """The exact distribution has few values, so that its percentiles are met to the bit."""
    right = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    other = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]], bool)
    level = (2.5, 97.5)
    mean, *bounds = bootstrap_mean(right, draws=50_000)
    exact = np.percentile(all_resamples(right), level, method="inverted_cdf")
    assert mean == pytest.approx(right.mean(), abs=1e-12)
    assert bounds == pytest.approx(exact, abs=1e-12)
    # The same draws for both: each resample of one less the same resample of the other.
    gain = all_resamples(right) - all_resamples(other)
    mean, *bounds = bootstrap_difference(right, other, draws=50_000)
    exact = np.percentile(gain, level, method="inverted_cdf")
    assert mean == pytest.approx(right.mean() - other.mean(), abs=1e-12)
    assert bounds == pytest.approx(exact, abs=1e-12)


def test_the_same_seed_draws_the_same() -> None:
    right = np.random.default_rng(4).random((3, 50)) < 0.7
    assert bootstrap_mean(right, draws=20) == bootstrap_mean(right, seed=0, draws=20)
    assert bootstrap_mean(right, draws=20) != bootstrap_mean(right, seed=1, draws=20)


def test_one_seed_is_the_plain_bootstrap() -> None:
    """Its spread is the binomial's; with a single seed nothing else varies."""
    right = np.arange(400)[None] < 300
    mean, low, high = bootstrap_mean(right)
    assert mean == 0.75
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - spread, abs=0.004)
    assert high == pytest.approx(0.75 + spread, abs=0.004)


def test_seeds_and_images_both_count() -> None:
    """Seeds that differ widen the interval, as images do."""
    images = np.random.default_rng(1).random(400)
    alike = np.stack([images < 0.7] * 5)
    apart = np.stack([images < limit for limit in (0.5, 0.6, 0.7, 0.8, 0.9)])
    widths = [interval.high - interval.low for interval in map(bootstrap_mean, (alike, apart))]
    assert widths[1] > 2 * widths[0]


def test_a_covering_interval() -> None:
    """95% intervals of one seed's accuracy hold the truth in about 95% of 200 studies."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        _, low, high = bootstrap_mean(rng.random((1, 100)) < 0.8, draws=1000)
        held += low <= 0.8 <= high
    assert 0.90 <= held / 200 <= 0.98


def test_a_difference_is_paired() -> None:
    """Two that are wrong on the same images differ by little, however few the images."""
    images = np.random.default_rng(3).random((1, 60))
    first, second = images < 0.6, images < 0.55
    mean, low, high = bootstrap_difference(first, second)
    assert mean == pytest.approx(first.mean() - second.mean())
    assert 0 <= low <= mean <= high < 0.15
    shuffled = second[:, ::-1]
    _, low, high = bootstrap_difference(first, shuffled)
    assert high - low > 0.25
    with pytest.raises(InputError, match="shapes"):
        bootstrap_difference(first, second[:, 1:])


def test_mcnemar_counts_all_outcomes() -> None:
    """Exact: of the 2^n ways to share out n differing images, those as uneven or more."""
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0, 1], bool)
    uneven = abs(5 - 1)
    ways = [abs(2 * sum(way) - 6) >= uneven for way in itertools.product((0, 1), repeat=6)]
    assert mcnemar(first, second) == pytest.approx(sum(ways) / 2**6)
    assert mcnemar(first, first) == 1
