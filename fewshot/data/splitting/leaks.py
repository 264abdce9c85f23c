"""Leaks: what would let a model see in training what it is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from medfocus.engine.io.results import printable
from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.contents import content_hashes


def file_name(dataset: Dataset, index: int) -> str:
    """The path of an item below the data set's root, with slashes on every system."""
    return dataset.items[index].path.relative_to(dataset.root).as_posix()


def leave_out_copies(dataset: Dataset, report: Console) -> Dataset:
    """A data set without files that are refused for their bytes.

    That is, without all files of a content with two labels, and without copies, in its authors'
    training part, of what is in their test part. Each is reported.
    """
    hashes = content_hashes([item.path for item in dataset.items])
    labels: dict[str, set[int]] = {}
    for item, content in zip(dataset.items, hashes, strict=True):
        labels.setdefault(content, set()).add(item.label)
    tested = {
        content for item, content in zip(dataset.items, hashes, strict=True) if item.part == "test"
    }
    kept = []
    for index, (item, content) in enumerate(zip(dataset.items, hashes, strict=True)):
        if len(labels[content]) > 1:
            problem = "the same bytes have two labels"
        elif item.part == "train" and content in tested:
            problem = "a copy of a test image"
        else:
            kept.append(item)
            continue
        report.print(f"left out: {printable(file_name(dataset, index))}: {problem}")
    return replace(dataset, items=tuple(kept))


def check_one_label_each(dataset: Dataset, hashes: Sequence[str]) -> None:
    """Refuse two files of equal content and different labels.

    Args:
        dataset: of N items.
        hashes: N, of their files.

    Raises:
        InputError: the first such pair, named.
    """
    first: dict[str, int] = {}
    for index, content in enumerate(hashes):
        other = first.setdefault(content, index)
        labels = dataset.items[other].label, dataset.items[index].label
        if labels[0] != labels[1]:
            raise InputError(
                f"{file_name(dataset, other)} and {file_name(dataset, index)}",
                f"hold the same bytes, labelled {dataset.classes[labels[0]]!r} and"
                f" {dataset.classes[labels[1]]!r}",
                "keep the one with the right label, or leave out both with --skip-bad",
            )


def check_apart(
    dataset: Dataset, hashes: Mapping[int, str], train: Sequence[int], test: Sequence[int]
) -> None:
    """Refuse parts that share a content or a group.

    Args:
        dataset: of N items.
        hashes: of the parts' files, by the indices of their items.
        train: indices of items that may be trained on.
        test: indices of items that are tested on.

    Raises:
        InputError: two files of equal content, the first pair named; or files of one group, by
            their numbers alone, since a group may tell who a patient is.
    """
    tested = {hashes[index]: index for index in reversed(test)}
    copies = [index for index in train if hashes[index] in tested]
    if copies:
        names = (
            f"{file_name(dataset, copies[0])} and {file_name(dataset, tested[hashes[copies[0]]])}"
        )
        others = f"; {len(copies) - 1} more training files are copies" if len(copies) > 1 else ""
        raise InputError(
            names,
            f"hold the same bytes, the one to train on and the other to test on{others}",
            "delete the copies in the training part, list the files to use in a table, or leave"
            " them out with --skip-bad",
        )
    groups = _groups(dataset, train) & _groups(dataset, test)
    if groups:
        counts = [
            sum(dataset.items[index].group in groups for index in part) for part in (train, test)
        ]
        raise InputError(
            dataset.name,
            f"{len(groups)} groups, patients say, have files in both parts: {counts[0]} to train"
            f" on and {counts[1]} to test on",
            "move all files of a group to one part",
        )


def _groups(dataset: Dataset, part: Sequence[int]) -> set[str | None]:
    return {dataset.items[index].group for index in part} - {None}
