"""Confidence intervals of an accuracy, and of the difference of two accuracies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from medfocus.errors import InputError

DRAWS = 2000
Correct = NDArray[np.bool_]


class Interval(NamedTuple):
    """A mean and its confidence interval, 95% by default."""

    mean: float
    low: float
    high: float


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    interval = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high))


def bootstrap_mean(correct: Correct, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Mean accuracy over training seeds, with a 95% interval over seeds and images.

    Args:
        correct: (S, N), the answers of S training seeds on the same N images.
        seed: of the bootstrap.
        draws: number of bootstrap resamples.
    """
    return _interval(correct.astype(np.float64), seed, draws)


def bootstrap_difference(
    first: Correct, second: Correct, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Accuracy of `first` minus that of `second`, paired by training seed and image.

    Args:
        first, second: (S, N) each.
        seed: of the bootstrap.
        draws: number of bootstrap resamples.

    Raises:
        InputError: the shapes differ.
    """
    if first.shape != second.shape:
        raise InputError(
            "paired answers",
            f"have the shapes {first.shape} and {second.shape}",
            "compare runs of the same seeds on the same images",
            code="input.shape_mismatch",
        )
    return _interval(first.astype(np.float64) - second, seed, draws)


def mcnemar(first: Correct, second: Correct) -> float:
    """The p-value of McNemar's exact test that two classifiers are equally accurate.

    Args:
        first, second: (N,) each, on the same images.
    """
    only_first = int((first & ~second).sum())
    differing = int((first ^ second).sum())
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def _interval(values: NDArray[np.float64], seed: int, draws: int) -> Interval:
    """The mean of values (S, N), with percentiles of Owen's pigeonhole bootstrap (2007).

    Rows and columns are resampled independently, so that the interval covers the variation of both
    seeds and images. `scipy.stats.bootstrap` resamples along one axis only.
    """
    seeds, images = values.shape
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)  # (draws, S) counts
    columns = rng.multinomial(images, np.full(images, 1 / images), draws)  # (draws, N) counts
    means = ((rows @ values) * columns).sum(1) / values.size
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))
