"""Pools whose files are not there, for what looks at labels, groups and hashes alone."""

from pathlib import Path

from medfocus.fewshot.data.dataset import Dataset, Item

ROOT = Path("/data")
CLASSES = ("a", "b", "c")


def fake(labels: list[int], groups: list[str | None] | None = None) -> Dataset:
    """A pool whose files are not there."""
    items = tuple(
        Item(ROOT / f"{number:05}.png", label, group)
        for number, (label, group) in enumerate(
            zip(labels, groups or [None] * len(labels), strict=True)
        )
    )
    return Dataset("fake", ROOT, CLASSES, CLASSES, items)


def distinct(dataset: Dataset) -> list[str]:
    return [str(number) for number in range(len(dataset.items))]
