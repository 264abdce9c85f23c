"""Hashes of file contents, which find copies under any name."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medfocus.fewshot.data.dataset import Dataset
from medfocus.files.file_errors import unreadable
from medfocus.models.weights import sha256

_MANY = 1000  # files; hashing more may take seconds, so progress is shown


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, in hexadecimal.

    Hashes are cached for the life of the process, until a file's size or time changes.

    Raises:
        FileError: a file cannot be read.
    """
    console = Console(stderr=True)
    steps = track(
        paths, "hashing files", console=console, transient=True, disable=len(paths) < _MANY
    )
    return [_content_hash(path) for path in steps]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of a whole data set: names, files, masks, labels, groups, parts and prompts.

    Raises:
        FileError: a file cannot be read.
    """
    hashes = content_hashes([item.path for item in dataset.items])
    masks = [content_hashes(item.masks) for item in dataset.items]
    entries = [
        (item.path.relative_to(dataset.root).as_posix(), item.label, item.group, item.part)
        for item in dataset.items
    ]
    content = dataset.classes, dataset.prompts, hashes, masks, entries
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content_hash(path: Path) -> str:
    try:
        state = path.stat()
        return _hash_once(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error) from error


@cache
def _hash_once(path: Path, size: int, modified: int) -> str:
    return sha256(path)
