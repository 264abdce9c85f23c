"""Temperature scaling: one number that makes probabilities say how often they are right."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

from medfocus.errors import InputError

LIMITS = (1 / 20, 20.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy (arXiv 1706.04599).

    The cross-entropy is convex in 1 / T, so that there is one such T within the limits. Where all
    answers are right and sure, float64 cannot tell many T apart, and one of them is returned.

    Args:
        logits: (N, C), of images that were not trained on; labels: (N,) int64.

    Raises:
        InputError: shapes that do not fit, no image, or logits that are not finite.
    """
    scores, truth = logits.double().numpy(), labels.numpy()
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        shapes = f"are of shape {scores.shape} with labels {truth.shape}"
        raise InputError("logits", shapes, "give (N, C) logits and (N,) labels, N > 0")
    if not np.isfinite(scores).all():
        raise InputError("logits", "are not finite", "look for what diverged in the training")
    rows = np.arange(len(truth))

    def cross_entropy(log_temperature: float) -> float:
        return float(-log_softmax(scores / np.exp(log_temperature), 1)[rows, truth].mean())

    bounds = (float(np.log(LIMITS[0])), float(np.log(LIMITS[1])))
    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
