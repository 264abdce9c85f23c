"""Checks that no test image, copy of one, or patient is also trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.splitting.contents import content_hashes
from medfocus.terminal import printable


def file_name(dataset: Dataset, index: int) -> str:
    """An item's path relative to the data set's root, with forward slashes."""
    return dataset.items[index].path.relative_to(dataset.root).as_posix()


def leave_out_copies(
    dataset: Dataset, pixels: Mapping[Item, Sequence[str]], report: Console
) -> Dataset:
    """A data set without files that would be refused because of their pixels.

    Removes files that occur with two labels, and training files with an image of a test file. In a
    data set without parts, of files with the same image but other bytes only the first stays, since
    they could be split; but files of one group stay together anyway. Each is reported.

    Args:
        dataset: N items.
        pixels: of each item, a hash of each frame's pixels.
        report: receives one line per removed file.
    """
    hashes = content_hashes([item.path for item in dataset.items])
    labels: dict[tuple[str, ...], set[int]] = {}
    for item in dataset.items:
        labels.setdefault(tuple(pixels[item]), set()).add(item.label)
    tested = {frame for item in dataset.items if item.part == "test" for frame in pixels[item]}
    # Where an image was first seen: the file's bytes, and its group or else the file itself.
    first: dict[str, tuple[str, object]] = {}
    kept = []
    for index, (item, content) in enumerate(zip(dataset.items, hashes, strict=True)):
        group = item.group or item
        earlier = [first[frame] for frame in pixels[item] if frame in first]
        if len(labels[tuple(pixels[item])]) > 1:
            problem = "the same image has two labels"
        elif item.part == "train" and not tested.isdisjoint(pixels[item]):
            problem = "a copy of a test image"
        elif item.part is None and any(
            content != theirs and group != owner for theirs, owner in earlier
        ):
            problem = "the same image as in an earlier file"
        else:
            kept.append(item)
            for frame in pixels[item]:
                first.setdefault(frame, (content, group))
            continue
        report.print(f"left out: {printable(file_name(dataset, index))}: {problem}")
    return replace(dataset, items=tuple(kept))


def check_consistent_labels(dataset: Dataset, hashes: Sequence[str]) -> None:
    """Refuse files of equal content with different labels.

    Args:
        dataset: N items.
        hashes: N hashes of their files.

    Raises:
        InputError: names the first such pair.
    """
    first: dict[str, int] = {}
    for index, content in enumerate(hashes):
        other = first.setdefault(content, index)
        labels = dataset.items[other].label, dataset.items[index].label
        if labels[0] != labels[1]:
            raise InputError(
                f"{file_name(dataset, other)} and {file_name(dataset, index)}",
                f"have the same content, labelled {dataset.classes[labels[0]]!r} and"
                f" {dataset.classes[labels[1]]!r}",
                "keep the one with the correct label, or leave out both with --skip-bad",
                code="dataset.conflicting_labels",
            )


def check_no_overlap(
    dataset: Dataset, hashes: Mapping[int, str], train: Sequence[int], test: Sequence[int]
) -> None:
    """Refuse train and test parts that share a file content or a group.

    Args:
        dataset: N items.
        hashes: of the files, by item index.
        train: indices of items that may be trained on.
        test: indices of items that are tested on.

    Raises:
        InputError: two files have equal content, naming the first pair; or a group is in both
            parts, giving only counts, since a group may identify a patient.
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
            f"have the same content, one in the training part and one in the test part{others}",
            "delete the copies in the training part, list the files to use in a table, or leave"
            " them out with --skip-bad",
            code="split.shared_content",
        )
    groups = _groups(dataset, train) & _groups(dataset, test)
    if groups:
        counts = [
            sum(dataset.items[index].group in groups for index in part) for part in (train, test)
        ]
        raise InputError(
            dataset.name,
            f"{len(groups)} groups (such as patients) have files in both parts: {counts[0]} in"
            f" training and {counts[1]} in test",
            "move all files of a group to one part",
            code="split.shared_groups",
        )


def _groups(dataset: Dataset, part: Sequence[int]) -> set[str | None]:
    return {dataset.items[index].group for index in part} - {None}
