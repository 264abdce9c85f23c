"""What files hold, by their SHA-256: copies are found whatever they are called."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.models.weights import sha256

_MANY = 1000  # files, from which on hashing may take seconds


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, in hexadecimal.

    A file is hashed once in a process, and again only when its size or time has changed.

    Raises:
        InputError: a file that cannot be read.
    """
    console = Console(stderr=True)
    steps = track(
        paths, "hashing files", console=console, transient=True, disable=len(paths) < _MANY
    )
    return [_content_hash(path) for path in steps]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of all that a data set says: names, files, masks, labels, groups, parts, prompts.

    Raises:
        InputError: a file that cannot be read.
    """
    hashes = content_hashes([item.path for item in dataset.items])
    masks = [content_hashes(item.masks) for item in dataset.items]
    said = [
        (item.path.relative_to(dataset.root).as_posix(), item.label, item.group, item.part)
        for item in dataset.items
    ]
    content = dataset.classes, dataset.prompts, hashes, masks, said
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content_hash(path: Path) -> str:
    try:
        state = path.stat()
        return _hash_once(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise InputError(
            str(path), f"cannot be read ({error.strerror})", "check the file and its permissions"
        ) from error


@cache
def _hash_once(path: Path, size: int, modified: int) -> str:
    return sha256(path)
