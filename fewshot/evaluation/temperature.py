"""Temperature scaling: one number that makes probabilities say how often they are right."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor

LIMITS = (1 / 20, 20.0)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy (arXiv 1706.04599).

    The cross-entropy is convex in 1 / T, so that there is one such T within the limits.

    Args:
        logits: (N, C), of images that were not trained on; labels: (N,) int64.
    """
    scores, truth = logits.double().numpy(), labels.numpy()
    rows = np.arange(len(truth))

    def cross_entropy(log_temperature: float) -> float:
        return float(-log_softmax(scores / np.exp(log_temperature), 1)[rows, truth].mean())

    bounds = (float(np.log(LIMITS[0])), float(np.log(LIMITS[1])))
    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
