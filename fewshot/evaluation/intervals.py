"""How sure one can be of an accuracy, and of a difference of two."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from medfocus.errors import InputError

DRAWS = 2000
Right = NDArray[np.bool_]


class Interval(NamedTuple):
    """A mean and its interval, of 95% where nothing else is asked for."""

    mean: float
    low: float
    high: float


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    interval = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(successes / trials, float(interval.low), float(interval.high))


def bootstrap_mean(right: Right, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Accuracy over several training seeds, and where it would lie with other seeds and images.

    Seeds and images are both drawn anew, independently of each other, so that both sources of
    chance are in the 95% interval (percentiles of Owen's pigeonhole bootstrap, 2007).

    Args:
        right: (S, N), the answers of S training seeds on the same N images.
        seed: of the bootstrap's own draws.
        draws: how many.
    """
    return _percentiles(_two_way(right.astype(np.float64), seed, draws), right.mean())


def bootstrap_difference(
    first: Right, second: Right, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Accuracy of `first` less that of `second`, on the same images with the same seeds, paired.

    Args:
        first, second: (S, N) each.
        seed: of the bootstrap's own draws.
        draws: how many.

    Raises:
        InputError: of different shapes.
    """
    if first.shape != second.shape:
        raise InputError(
            "paired answers",
            f"are of shapes {first.shape} and {second.shape}",
            "compare runs of the same seeds on the same images",
        )
    gain = first.astype(np.float64) - second
    return _percentiles(_two_way(gain, seed, draws), gain.mean())


def mcnemar(first: Right, second: Right) -> float:
    """The exact p-value that two answerers are right equally often (McNemar 1947).

    Args:
        first, second: (N,) each, on the same images.
    """
    only_first = int((first & ~second).sum())
    differing = int((first ^ second).sum())
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def _two_way(values: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    """Means (draws,) of values (S, N) with rows and columns each drawn with replacement."""
    seeds, images = values.shape
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)  # (draws, S) how often each
    columns = rng.multinomial(images, np.full(images, 1 / images), draws)  # (draws, N)
    means: NDArray[np.float64] = ((rows @ values) * columns).sum(1) / values.size
    return means


def _percentiles(draws: NDArray[np.float64], mean: float) -> Interval:
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(float(mean), float(low), float(high))
