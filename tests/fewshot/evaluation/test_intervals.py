"""Intervals compared with their equations, brute force and simulated studies."""

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
from tests.errors import refuses


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilsons_interval(level: float) -> None:
    """Its bounds solve the score equation |p - share| = z·sqrt(p(1 - p) / n)."""
    z = norm.ppf((1 + level) / 2)
    for successes, trials in ((0, 10), (71, 100), (400, 400)):
        share, *bounds = wilson(successes, trials, level)
        assert share == successes / trials
        for bound in bounds:
            assert abs(bound - share) == pytest.approx(
                z * math.sqrt(max(bound * (1 - bound), 0) / trials), abs=1e-9
            )


def all_resamples(values: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of each of the equally likely draws of S rows and N columns with replacement."""
    seeds, images = values.shape
    rows = np.array([*itertools.product(range(seeds), repeat=seeds)])  # (S^S, S)
    columns = np.array([*itertools.product(range(images), repeat=images)])  # (N^N, N)
    drawn = values[rows[:, None, :, None], columns[None, :, None, :]]  # (S^S, N^N, S, N)
    return drawn.mean((2, 3)).flatten()


def test_bootstrap_against_every_resample() -> None:
    """The exact distribution has few values, so its percentiles are matched exactly."""
    correct = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    other = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0]], bool)
    level = (2.5, 97.5)
    mean, *bounds = bootstrap_mean(correct, draws=50_000)
    exact = np.percentile(all_resamples(correct), level, method="inverted_cdf")
    assert mean == pytest.approx(correct.mean(), abs=1e-12)
    assert bounds == pytest.approx(exact, abs=1e-12)
    # Paired: the same resample of both.
    gain = all_resamples(correct) - all_resamples(other)
    mean, *bounds = bootstrap_difference(correct, other, draws=50_000)
    exact = np.percentile(gain, level, method="inverted_cdf")
    assert mean == pytest.approx(correct.mean() - other.mean(), abs=1e-12)
    assert bounds == pytest.approx(exact, abs=1e-12)


def test_the_same_seed_draws_the_same() -> None:
    correct = np.random.default_rng(4).random((3, 50)) < 0.7
    assert bootstrap_mean(correct, draws=20) == bootstrap_mean(correct, seed=0, draws=20)
    assert bootstrap_mean(correct, draws=20) != bootstrap_mean(correct, seed=1, draws=20)


def test_one_seed_is_the_plain_bootstrap() -> None:
    """With a single seed, the spread is that of the binomial distribution."""
    correct = np.arange(400)[None] < 300
    mean, low, high = bootstrap_mean(correct)
    assert mean == 0.75
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - spread, abs=0.004)
    assert high == pytest.approx(0.75 + spread, abs=0.004)


def test_the_interval_covers_seeds_and_images() -> None:
    """Differences between seeds widen the interval, as those between images do."""
    images = np.random.default_rng(1).random(400)
    alike = np.stack([images < 0.7] * 5)
    apart = np.stack([images < limit for limit in (0.5, 0.6, 0.7, 0.8, 0.9)])
    widths = [interval.high - interval.low for interval in map(bootstrap_mean, (alike, apart))]
    assert widths[1] > 2 * widths[0]


def test_the_coverage_is_95_percent() -> None:
    """95% intervals contain the true accuracy in about 95% of 200 simulated studies."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        _, low, high = bootstrap_mean(rng.random((1, 100)) < 0.8, draws=1000)
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 200 <= 0.98


def test_a_difference_is_paired() -> None:
    """Errors on the same images give a narrow interval, even with few images."""
    images = np.random.default_rng(3).random((1, 60))
    first, second = images < 0.6, images < 0.55
    mean, low, high = bootstrap_difference(first, second)
    assert mean == pytest.approx(first.mean() - second.mean())
    assert 0 <= low <= mean <= high < 0.15
    shuffled = second[:, ::-1]
    _, low, high = bootstrap_difference(first, shuffled)
    assert high - low > 0.25
    with refuses(InputError, "input.shape_mismatch", "paired answers"):
        bootstrap_difference(first, second[:, 1:])


def test_mcnemar_by_enumeration() -> None:
    """Of the 2^n ways to distribute n discordant images, the share at least as uneven."""
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 0, 1], bool)
    uneven = abs(5 - 1)
    ways = [abs(2 * sum(way) - 6) >= uneven for way in itertools.product((0, 1), repeat=6)]
    assert mcnemar(first, second) == pytest.approx(sum(ways) / 2**6)
    assert mcnemar(first, first) == 1
