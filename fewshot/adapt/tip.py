"""Tip-Adapter-F: the training images as a cache with fine-tuned keys (arXiv 2207.09519)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.models.graphs import Cache

# The paper's initial values. It tunes them on a validation set, which few-shot users do not have.
RATIO = 1.0
SHARPNESS = 5.5
STEPS = 100
LEARNING_RATE = 1e-3


def fit_tip(features: Tensor, labels: Tensor, text: Tensor, logit_scale: Tensor) -> Cache:
    """A cache of all images, its keys trained to minimise the cross-entropy on them.

    Args:
        features: (N, E) of length 1; labels: (N,) int64 in [0, C).
        text: (C, E) class embeddings of the prompts, of length 1; not trained.
        logit_scale: () CLIP's factor on the cosine.
    """
    keys = features.clone().requires_grad_()
    values = RATIO * F.one_hot(labels, len(text)).float()
    optimiser = torch.optim.AdamW([keys], lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    zero_shot = logit_scale * features @ text.T
    for _ in range(STEPS):
        affinity = (SHARPNESS * (features @ F.normalize(keys, dim=-1).T - 1)).exp()
        loss = F.cross_entropy(zero_shot + affinity @ values, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Cache(F.normalize(keys.detach(), dim=-1), values, torch.tensor(SHARPNESS))
