"""A split: what a head was trained on and is tested on, written as a JSON file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfocus.files.atomic_write import atomic_write

SCHEMA = 1
HEAD = "head"  # a key that a split without a head lacks


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
        """Write the split atomically as JSON.

        Raises:
            FileError: the file cannot be written.
        """
        atomic_write(path, self.to_json())

    def to_json(self, head: str | None = None) -> str:
        """The split as JSON, without groups.

        Args:
            head: SHA-256 of the file of the head that was trained on it, if there is one.
        """
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "classes": self.classes,
            "amount": self.amount,
            "seed": self.seed,
            "train": [self._entry(file) for file in self.train_files],
            "test": [self._entry(file) for file in self.test_files],
        }
        if head is not None:
            content[HEAD] = head
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _entry(self, file: SplitFile) -> dict[str, str]:
        return {"file": file.file, "sha256": file.sha256, "class": self.classes[file.label]}
