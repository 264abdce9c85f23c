"""A class list: the classes a data set must have, and their order."""

from collections.abc import Sequence
from dataclasses import replace

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset


def with_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Reorder a data set's classes to match a class list.

    Args:
        dataset: its classes come from its labels or folder names.
        classes: exactly the classes of the data set, in the wanted order.

    Raises:
        InputError: a file has a label that is not listed, or a listed class has no file.
    """
    for item in dataset.items:
        label = dataset.classes[item.label]
        if label not in classes:
            raise InputError(
                str(item.path),
                f"is labelled {label!r}, which is not in the class list",
                f"use one of {', '.join(classes)}, or add it to the list",
                code="dataset.unknown_class",
            )
    for name in classes:
        if name not in dataset.classes:
            raise InputError(
                f"class {name!r}",
                f"has no file in {dataset.name}",
                "add files of this class, or remove it from the list",
                code="dataset.missing_class",
            )
    prompts = dict(zip(dataset.classes, dataset.prompts, strict=True))
    return replace(
        dataset,
        classes=tuple(classes),
        prompts=tuple(prompts[name] for name in classes),
        items=tuple(
            replace(item, label=classes.index(dataset.classes[item.label]))
            for item in dataset.items
        ),
    )
