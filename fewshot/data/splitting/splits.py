"""Reproducible splits of a data set into files to train on and files to test on."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.contents import content_hashes
from medfocus.fewshot.data.splitting.held_out import held_out
from medfocus.fewshot.data.splitting.leaks import (
    check_consistent_labels,
    check_no_overlap,
    file_name,
)
from medfocus.fewshot.data.splitting.split import Split, SplitFile
from medfocus.fewshot.data.splitting.split_file import read_split, tested_split

__all__ = ["Fraction", "Shots", "Split", "SplitFile", "make_split", "read_split", "tested_split"]


@dataclass(frozen=True)
class Shots:
    """An amount of training files: a number per class."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(
                f"{self.count} shots", "are too few", "use 1 or more", code="input.out_of_range"
            )

    def __str__(self) -> str:
        return f"{self.count} shot{'s' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Fraction:
    """An amount of training files: a share of every class, in (0, 1]."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(
                f"fraction {self.share}",
                "is not in (0, 1]",
                "pass 0.05 for 5%",
                code="input.out_of_range",
            )

    def __str__(self) -> str:
        return f"{100 * self.share:g}%"


def make_split(dataset: Dataset, amount: Shots | Fraction, seed: int) -> Split:
    """Choose the files to train on and those to test on.

    Test files: the test part that the data set's authors defined, or else a fifth, stratified and
    split by group (patient-level); the same for every amount and seed. Training files: from the
    rest, the given number per class, or the rounded share of each class but at least one. With the
    same seed, a smaller amount is a subset of a larger one.

    Args:
        dataset: its files are read to hash them.
        amount: how many files to train on.
        seed: of the choice of training files.

    Raises:
        FileError: a file cannot be read.
        InputError: fewer than two classes; a class without files to test or train on, or with
            fewer than the shots; a content or group in both parts; a content with two labels.
    """
    if len(dataset.classes) < 2:
        raise InputError(
            dataset.name, "has a single class", "add a second class", code="dataset.missing_class"
        )
    hashes = content_hashes([item.path for item in dataset.items])
    check_consistent_labels(dataset, hashes)
    pool, test = _parts(dataset, hashes)
    check_no_overlap(dataset, dict(enumerate(hashes)), pool, test)
    train: list[int] = []
    for label, name in enumerate(dataset.classes):
        candidates = [index for index in pool if dataset.items[index].label == label]
        tested = any(dataset.items[index].label == label for index in test)
        if not candidates or not tested:
            raise InputError(
                f"class {name!r} of {dataset.name}",
                f"has no file to {'test' if candidates else 'train'} on",
                "add some"
                if any(item.part for item in dataset.items)
                else "add files up to at least 5, of at least 5 groups if they are grouped",
                code="split.too_few_files",
            )
        train += _choose(dataset, candidates, _count(amount, len(candidates), name), seed)

    def files(part: Sequence[int]) -> tuple[SplitFile, ...]:
        return tuple(
            SplitFile(i, file_name(dataset, i), hashes[i], dataset.items[i].label) for i in part
        )

    return Split(
        dataset.name, dataset.classes, str(amount), seed, files(sorted(train)), files(test)
    )


def _parts(dataset: Dataset, hashes: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of the items that may be trained on and of the test items, both ascending."""
    parts = [item.part for item in dataset.items]
    if any(parts):
        test = {index for index, part in enumerate(parts) if part == "test"}
    else:
        test = set(held_out(dataset, hashes))
    return [index for index in range(len(parts)) if index not in test], sorted(test)


def _count(amount: Shots | Fraction, available: int, name: str) -> int:
    if isinstance(amount, Fraction):
        return max(1, round(amount.share * available))
    if amount.count > available:
        raise InputError(
            f"class {name!r}",
            f"has {available} files to train on, fewer than {amount}",
            f"use at most {available} shots, or a fraction",
            code="split.too_few_files",
        )
    return amount.count


def _choose(dataset: Dataset, candidates: Sequence[int], count: int, seed: int) -> list[int]:
    """The first candidates in the order of a hash of seed and file name.

    Unlike a random generator, a hash gives the same order in every version and on every system;
    and a prefix of an order is a subset of any longer prefix.
    """

    def rank(index: int) -> str:
        return sha256(f"{seed} {file_name(dataset, index)}".encode()).hexdigest()

    return sorted(candidates, key=rank)[:count]
