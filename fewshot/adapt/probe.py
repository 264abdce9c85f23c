"""The text-initialised linear probe: class embeddings moved from the prompts to the images."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

TEXT_PULL = 1.0  # weight of the distance to the text embeddings; not tuned
ITERATIONS = 100  # L-BFGS steps; the problem is small, and convex up to the normalisation

Matrix = NDArray[np.float64]


def fit_probe(
    features: Tensor, labels: Tensor, text: Tensor, logit_scale: Tensor, pull: float = TEXT_PULL
) -> Tensor:
    """Class embeddings W that minimise cross-entropy + pull · |W - text|² / C, in float64.

    Starting from the text and staying near it needs no validation set (CLAP, arXiv 2312.12730;
    LP++, arXiv 2404.02285).

    Args:
        features: (N, E) of length 1; labels: (N,) int64 in [0, C).
        text: (C, E) class embeddings of the prompts, of length 1.
        logit_scale: () CLIP's factor on the cosine.
        pull: weight of the distance to the text.

    Returns:
        (C, E) of length 1.
    """
    start = text.double().numpy()
    scaled = float(logit_scale) * features.double().numpy()
    truth = F.one_hot(labels, len(text)).double().numpy()

    def objective(flat: Matrix) -> tuple[float, Matrix]:
        weights = flat.reshape(start.shape)
        length = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = weights / length
        logs = log_softmax(scaled @ unit.T, 1)  # (N, C)
        moved = weights - start
        loss = -(truth * logs).sum() / len(truth) + pull * (moved**2).sum() / len(start)
        along_unit = (np.exp(logs) - truth).T @ scaled / len(truth)  # (C, E)
        # Normalisation removes the component of the gradient along the vector itself.
        across = along_unit - (along_unit * unit).sum(1, keepdims=True) * unit
        gradient = across / length + 2 * pull * moved / len(start)
        return float(loss), gradient.ravel()

    options = {"maxiter": ITERATIONS}
    best = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options).x
    return F.normalize(torch.from_numpy(best.reshape(start.shape)), dim=-1).to(text.dtype)
