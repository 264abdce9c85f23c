"""The held-out test part of a data set without parts: a fifth, stratified, split by group."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.groups import components

FOLDS = 5  # one of them is held out


def held_out(dataset: Dataset, hashes: Sequence[str]) -> tuple[int, ...]:
    """Indices of the items held out for testing, ascending.

    Scikit-learn's StratifiedGroupKFold assigns groups to five folds. With large groups, some folds
    are far from a fifth of a class, so the fold with the closest class counts is taken. The seed
    is fixed: the held-out part depends only on the data set.

    Args:
        dataset: N items without parts.
        hashes: N hashes of their files. Files of equal content count as one group.
    """
    labels = np.array([item.label for item in dataset.items])
    per_class = np.bincount(labels, minlength=len(dataset.classes))
    groups = components(
        [("content", content), *([] if item.group is None else [("group", item.group)])]
        for item, content in zip(dataset.items, hashes, strict=True)
    )
    folds = min(FOLDS, len(set(groups)), int(per_class.max(initial=0)))
    if folds < 2:
        return ()
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # Scikit-learn warns of classes with fewer files than folds.
        warnings.filterwarnings("ignore", category=UserWarning)
        parts = [test for _, test in splitter.split(labels, labels, groups)]

    def distance(part: NDArray[np.intp]) -> float:
        counts = np.bincount(labels[part], minlength=len(per_class))
        lacking = np.sum((counts == 0) | (counts == per_class))
        return float(lacking + np.abs(counts / np.maximum(per_class, 1) - 1 / FOLDS).mean())

    return tuple(int(index) for index in min(parts, key=distance))
