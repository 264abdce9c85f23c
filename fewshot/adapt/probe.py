"""The text-initialised linear probe: class embeddings moved from the text towards the images."""

import torch
import torch.nn.functional as F
from torch import Tensor

TEXT_PULL = 1.0  # weight of the distance to the text embeddings; no validation set chooses it
ITERATIONS = 100  # L-BFGS steps; the objective is convex up to the normalisation, and small


def fit_probe(
    features: Tensor, labels: Tensor, text: Tensor, logit_scale: Tensor, pull: float = TEXT_PULL
) -> Tensor:
    """Class embeddings that minimise cross-entropy + pull · |W - text|² / C.

    Starting from, and staying near, the text needs no validation set (as CLAP, arXiv 2312.12730,
    and LP++, arXiv 2404.02285, argue).

    Args:
        features: (N, E) of length 1; labels: (N,) int64 in [0, C).
        text: (C, E) class embeddings of the prompts, of length 1.
        logit_scale: () CLIP's factor on the cosine.
        pull: how strongly the text holds.

    Returns:
        (C, E) of length 1.
    """
    weights = text.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = logit_scale * features @ F.normalize(weights, dim=-1).T
        loss = F.cross_entropy(logits, labels)
        loss = loss + pull * (weights - text).square().sum(1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return F.normalize(weights.detach(), dim=-1)
