"""A split as a JSON file: what a head was trained on and is tested on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfocus.atomic_write import atomic_write
from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.contents import content_hashes
from medfocus.fewshot.data.splitting.leaks import check_no_overlap, file_name
from medfocus.file_errors import unreadable

SCHEMA = 1
_HINT = "make a new split"
_TYPES = {
    "schema": int,
    "dataset": str,
    "classes": list,
    "amount": str,
    "seed": int,
    "train": list,
    "test": list,
}
_FILE_KEYS = {"file", "sha256", "class"}


@dataclass(frozen=True)
class SplitFile:
    """One file of a split.

    Attributes:
        index: of its item in the data set.
        file: its path relative to the data set's root, with forward slashes.
        sha256: of its content, in hexadecimal.
        label: index of its class.
    """

    index: int
    file: str
    sha256: str
    label: int


@dataclass(frozen=True)
class Split:
    """The files of a data set to train on and to test on.

    Attributes:
        dataset: its name.
        classes: C class names.
        amount: how many files are trained on, as text: "16 shots", "5%".
        seed: of the choice of training files.
        train_files: in the order of the data set's items.
        test_files: in the order of the data set's items.
    """

    dataset: str
    classes: tuple[str, ...]
    amount: str
    seed: int
    train_files: tuple[SplitFile, ...]
    test_files: tuple[SplitFile, ...]

    @property
    def train(self) -> tuple[int, ...]:
        """Indices of the items to train on, ascending."""
        return tuple(file.index for file in self.train_files)

    @property
    def test(self) -> tuple[int, ...]:
        """Indices of the items to test on, ascending."""
        return tuple(file.index for file in self.test_files)

    def save(self, path: Path) -> None:
        """Write the split atomically as JSON, without groups.

        Raises:
            FileError: the file cannot be written.
        """
        content = {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "classes": self.classes,
            "amount": self.amount,
            "seed": self.seed,
            "train": [self._entry(file) for file in self.train_files],
            "test": [self._entry(file) for file in self.test_files],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        atomic_write(path, text)

    def _entry(self, file: SplitFile) -> dict[str, str]:
        return {"file": file.file, "sha256": file.sha256, "class": self.classes[file.label]}


def read_split(path: Path, dataset: Dataset) -> Split:
    """Read a saved split and check that its data set is unchanged.

    Raises:
        FileError: the file is missing or cannot be read.
        InputError: another schema, or unknown or missing keys; the classes differ; a listed file
            is missing from the data set, listed twice, changed or relabelled; a content or group
            is in both parts.
    """
    content = _content(path)
    if content["classes"] != list(dataset.classes):
        classes = ", ".join(map(str, content["classes"]))
        raise InputError(
            str(path),
            f"has the classes {classes}; the data set has {', '.join(dataset.classes)}",
            _HINT,
            code="split.class_mismatch",
        )
    indices = {file_name(dataset, index): index for index in range(len(dataset.items))}
    train, test = (
        [_entry(path, entry, dataset, indices) for entry in content[part]]
        for part in ("train", "test")
    )
    if not (train and test):
        raise _invalid(path, f"lists no files to {'test' if train else 'train'} on")
    seen: set[int] = set()
    for file in train + test:
        if file.index in seen:
            raise _invalid(path, f"lists {file.file} twice")
        seen.add(file.index)
    _check_contents(dataset, train + test)
    hashes = {file.index: file.sha256 for file in train + test}
    split = Split(
        dataset=content["dataset"],
        classes=dataset.classes,
        amount=content["amount"],
        seed=content["seed"],
        train_files=tuple(sorted(train, key=lambda file: file.index)),
        test_files=tuple(sorted(test, key=lambda file: file.index)),
    )
    check_no_overlap(dataset, hashes, split.train, split.test)
    return split


def tested_split(path: Path, dataset: Dataset) -> Split:
    """The files to test a head on: its split's test part, or another data set.

    A data set that holds none of the split's files, or any data set if the split file is missing,
    is used as a whole, or only its test part if its authors defined one.

    Raises:
        FileError, InputError: as `read_split`, or the data set has no test part.
    """
    absent: dict[str, Any] = {"amount": "unknown", "seed": 0, "train": [], "test": []}
    content = _content(path) if path.exists() else absent
    hashes = content_hashes([item.path for item in dataset.items])
    listed = content["train"] + content["test"]
    if {entry.get("sha256") for entry in listed if isinstance(entry, dict)} & set(hashes):
        return read_split(path, dataset)
    parts = {item.part for item in dataset.items}
    files = tuple(
        SplitFile(index, file_name(dataset, index), hashes[index], item.label)
        for index, item in enumerate(dataset.items)
        if item.part == "test" or parts == {None}
    )
    if not files:
        raise InputError(
            dataset.name, "has no test part", "add files to test on", code="split.too_few_files"
        )
    return Split(dataset.name, dataset.classes, content["amount"], content["seed"], (), files)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise _invalid(path, f"is not a JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise _invalid(path, f"is not a split of schema {SCHEMA}")
    _check_keys(path, content, set(_TYPES))
    for key, kind in _TYPES.items():
        if type(content[key]) is not kind:
            raise _invalid(path, f"has a {key!r} that is not of type {kind.__name__}")
    return content


def _invalid(path: Path, problem: str) -> InputError:
    return InputError(str(path), problem, _HINT, code="split.invalid")


def _check_keys(path: Path, found: dict[str, Any], expected: set[str]) -> None:
    differing = sorted(found.keys() ^ expected)
    if differing:
        verb = "has the unknown" if differing[0] in found else "lacks the"
        raise _invalid(path, f"{verb} key {differing[0]!r}")


def _entry(path: Path, entry: Any, dataset: Dataset, indices: dict[str, int]) -> SplitFile:
    """One file of the split. Only files of the data set are accepted, so no path leads outside."""
    if not isinstance(entry, dict):
        raise _invalid(path, "lists a file that is not an object")
    _check_keys(path, entry, _FILE_KEYS)
    name, label = entry["file"], entry["class"]
    if not isinstance(name, str) or name not in indices:
        raise InputError(
            str(name),
            f"is in {path} but not in the data set",
            f"restore the file, or {_HINT}",
            code="split.missing_file",
        )
    item = dataset.items[indices[name]]
    if label != dataset.classes[item.label]:
        raise InputError(
            name,
            f"is {label!r} in {path} but {dataset.classes[item.label]!r} in the data set",
            f"correct its label, or {_HINT}",
            code="split.label_mismatch",
        )
    return SplitFile(indices[name], name, entry["sha256"], item.label)


def _check_contents(dataset: Dataset, files: list[SplitFile]) -> None:
    hashes = content_hashes([dataset.items[file.index].path for file in files])
    for file, content in zip(files, hashes, strict=True):
        if content != file.sha256:
            raise InputError(
                file.file,
                "has changed since the split was made: its SHA-256 differs",
                f"restore the original file, or {_HINT}",
                code="split.changed_file",
            )
