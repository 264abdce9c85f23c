"""Cross-validation on the training images, for all choices made without test images."""

from collections.abc import Callable

import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from medfocus.models.graphs import class_logits
from medfocus.models.head import Head

FOLDS = 5

Refit = Callable[[Tensor, Tensor], Head]  # (N, E) features and (N,) labels to a head


def logits_of(head: Head, features: Tensor) -> Tensor:
    """Unit embeddings (N, E) to logits (N, C), as in the classifier's graph."""
    return class_logits(features, head.class_embeddings, head.logit_scale, head.cache)


def held_out_logits(
    refit: Refit, features: Tensor, labels: Tensor, groups: Tensor, seed: int
) -> Tensor | None:
    """Out-of-fold logits (N, C): each image's by a head fitted without its group.

    Args:
        refit: fits a head.
        features: (N, E) frozen embeddings; labels: (N,) int64, with every class present.
        groups: (N,) int64, equal for images that belong together.
        seed: of the stratified folds.

    Returns:
        None if a class has a single group, so that no fold can be held out.
    """
    of_class = [len(groups[labels == label].unique()) for label in labels.unique()]
    folds = min(FOLDS, *of_class)
    if folds < 2:
        return None
    if len(groups.unique()) == len(groups):  # without groups, classes are stratified better
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels)
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(features, labels, groups)
    logits = torch.empty(len(labels), int(labels.max()) + 1)
    for seen, held_out in splits:
        head = refit(features[seen], labels[seen])
        logits[held_out] = logits_of(head, features[held_out])
    return logits
