"""Temperature scaling: one parameter that calibrates probabilities."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

from medfocus.errors import InputError

LIMITS = (1 / 20, 20.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 that minimises the cross-entropy of softmax(logits / T) (arXiv 1706.04599).

    The cross-entropy is convex in 1 / T, so the minimum within the limits is unique, except that
    float64 cannot distinguish many T if all answers are correct with high confidence.

    Args:
        logits: (N, C), of images that were not trained on; labels: (N,) int64.

    Raises:
        InputError: shapes do not match, there is no image, or logits are not finite.
    """
    scores, truth = logits.double().numpy(), labels.numpy()
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        raise InputError(
            "logits",
            f"have the shape {scores.shape} with labels of {truth.shape}",
            "pass (N, C) logits and (N,) labels, N > 0",
            code="input.shape_mismatch",
        )
    if not np.isfinite(scores).all():
        raise InputError(
            "logits",
            "are not finite",
            "check whether the training diverged",
            code="input.not_finite",
        )
    rows = np.arange(len(truth))

    def cross_entropy(log_temperature: float) -> float:
        return float(-log_softmax(scores / np.exp(log_temperature), 1)[rows, truth].mean())

    bounds = (float(np.log(LIMITS[0])), float(np.log(LIMITS[1])))
    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
