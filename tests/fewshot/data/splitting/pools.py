"""Data sets without files, for code that uses only labels, groups and hashes."""

from pathlib import Path

from medfocus.fewshot.data.dataset import Dataset, Item

ROOT = Path("/data")
CLASSES = ("a", "b", "c")


def fake(labels: list[int], groups: list[str | None] | None = None) -> Dataset:
    """A data set whose files do not exist."""
    items = tuple(
        Item(ROOT / f"{number:05}.png", label, group)
        for number, (label, group) in enumerate(
            zip(labels, groups or [None] * len(labels), strict=True)
        )
    )
    return Dataset("fake", ROOT, CLASSES, CLASSES, items)


def distinct(dataset: Dataset) -> list[str]:
    return [str(number) for number in range(len(dataset.items))]
