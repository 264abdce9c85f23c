"""A small phantom set and the shipped models, read and segmented once per session."""

from pathlib import Path

import pytest
from rich.progress import Progress

from medfocus.fewshot.backbones import Backbones, load_backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.examples import Examples, load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.study.phantom_sets import write_set

PER_PART = 18


@pytest.fixture(scope="session")
def backbones() -> Backbones:
    return load_backbones("tiny", device="cpu")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of focus masks, shared by all tests."""
    return tmp_path_factory.mktemp("focus")


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Phantoms of four classes, half of them for training; tests must not modify it."""
    folder = tmp_path_factory.mktemp("sets") / "brain"
    write_set(folder, "brain", PER_PART)
    return read_dataset(folder)


@pytest.fixture(scope="session")
def examples(brain: Dataset, backbones: Backbones, cache: Path) -> Examples:
    with Progress(disable=True) as progress:
        return load_examples(brain.items, backbones, FocusStore(cache, backbones), progress)


def part(brain: Dataset, examples: Examples, name: str) -> Examples:
    """The examples of one part, train or test."""
    files = [index for index, item in enumerate(brain.items) if item.part == name]
    return examples.take(examples.rows_of(files))
