"""A list of classes that a data set must keep to."""

from collections.abc import Sequence
from dataclasses import replace

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset


def with_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The data set with its classes in the order of a list.

    Args:
        dataset: whatever classes its labels or folders name.
        classes: all that there may be, and must be.

    Raises:
        InputError: a file whose label is not in the list, or a class of the list without a file.
    """
    for item in dataset.items:
        label = dataset.classes[item.label]
        if label not in classes:
            raise InputError(
                str(item.path),
                f"is labelled {label!r}, which is not in the class list",
                f"use one of {', '.join(classes)}, or add it to the list",
            )
    for name in classes:
        if name not in dataset.classes:
            raise InputError(
                f"class {name!r}", f"has no file in {dataset.name}", "add some, or strike it off"
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
