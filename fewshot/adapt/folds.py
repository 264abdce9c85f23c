"""Answers of held-out folds: all that is chosen without a test image is chosen by them."""

from collections.abc import Callable

import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from medfocus.models.graphs import class_logits
from medfocus.models.head import Head

FOLDS = 5

Refit = Callable[[Tensor, Tensor], Head]  # (N, E) features and (N,) labels to a head


def logits_of(head: Head, features: Tensor) -> Tensor:
    """Unit embeddings (N, E) to logits (N, C), as the classifier's graph computes them."""
    return class_logits(features, head.class_embeddings, head.logit_scale, head.cache)


def held_out_logits(
    refit: Refit, features: Tensor, labels: Tensor, groups: Tensor, seed: int
) -> Tensor | None:
    """Logits (N, C) of each image by a head that saw none of its group; None with one of a class.

    Args:
        refit: fits a head.
        features: (N, E) frozen embeddings; labels: (N,) int64, every class among them.
        groups: (N,) int64, equal where images belong together.
        seed: of the folds, which are stratified.
    """
    of_class = [len(groups[labels == label].unique()) for label in labels.unique()]
    folds = min(FOLDS, *of_class)
    if folds < 2:
        return None
    if len(groups.unique()) == len(groups):  # then the classes' shares can be kept best
        dealt = StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels)
    else:
        dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        dealt = dealer.split(features, labels, groups)
    logits = torch.empty(len(labels), int(labels.max()) + 1)
    for seen, held_out in dealt:
        head = refit(features[seen], labels[seen])
        logits[held_out] = logits_of(head, features[held_out])
    return logits
