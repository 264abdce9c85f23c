"""A journal of the files that a run has finished, so that it can resume after an interruption.

The first line, in JSON, identifies the run; each further line is a finished file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from math import isfinite
from pathlib import Path
from typing import Any

from medfocus.errors import FileError
from medfocus.files.file_errors import unreadable, unwritable

ResultRow = dict[str, Any]  # Prediction.to_dict, SeriesPrediction.to_dict
FileKey = tuple[str, int, int]  # a file as it was classified: name, size, modification time in ns

_BEGINNING = b'{"medfocus": '  # of every journal: the first key of its run's identity
# What a row's keys hold in a journal, which has no rows with an error.
_TYPES: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "label": (str,),
    "probabilities": (dict,),
    "focused": (bool,),
    "focus_score": (float, type(None)),
    "warnings": (list,),
    "error": (type(None),),
}
_SERIES_TYPES: dict[str, tuple[type, ...]] = {"joined": (str,), "evidence": (str,)}


class Journal:
    """The journal of one run, open for writing.

    Attributes:
        finished: the rows of each file that an earlier run has finished.
    """

    def __init__(self, path: Path, stream: RawIOBase, finished: dict[FileKey, list[ResultRow]]):
        self.finished = finished
        self._path = path
        self._stream = stream

    def add(self, key: FileKey, rows: list[ResultRow]) -> None:
        """Record a finished file.

        Raises:
            FileError: the journal cannot be written (`file.unwritable`).
        """
        _append(self._path, self._stream, _line([key, rows]))


def journal_path(output: Path) -> Path:
    """The journal of a run that writes `output`."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def open_journal(path: Path, identity: ResultRow, restart: bool = False) -> Iterator[Journal]:
    """Open a journal for appending, and read what it holds.

    It is emptied with `restart`, or if it belongs to a run of another identity. A line that was
    written incompletely, and what follows it, is dropped.

    Args:
        path: of the journal; created if missing.
        identity: everything that the results depend on besides the files; `medfocus` is its first
            key.
        restart: discard what the journal holds.

    Raises:
        FileError: the file is no journal, and is kept (`file.exists`); a line of it is none that
            medfocus writes (`file.invalid_journal`); it cannot be read or written.
    """
    head = _line(identity)
    assert head.startswith(_BEGINNING)
    try:
        # Unbuffered: after a failed write, closing would try it again.
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise unwritable(path, error) from error
    with stream:
        finished, good = _read(path, None if restart else head)
        try:
            stream.truncate(good)
        except OSError as error:
            raise unwritable(path, error) from error
        if not good:
            _append(path, stream, head)
        yield Journal(path, stream, finished)


def key_of(path: Path, name: str) -> FileKey:
    """A key that changes if the file changes after it was classified.

    Args:
        path: of the file, or of the archive that holds it.
        name: as results name it.
    """
    try:
        status = path.stat()
    except OSError:  # deleted since it was found; the engine reports it
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _read(path: Path, head: bytes | None) -> tuple[dict[FileKey, list[ResultRow]], int]:
    """The files listed, and where the last complete line ends; none if `head` is not its own."""
    finished: dict[FileKey, list[ResultRow]] = {}
    try:
        with path.open("rb") as stream:
            first = stream.readline()
            if not (first.startswith(_BEGINNING) or _BEGINNING.startswith(first)):
                problem = "is no journal of medfocus, which would write its own there"
                hint = "move it away, or choose another name for the results"
                raise FileError(str(path), problem, hint, code="file.exists")
            if first != head:
                return finished, 0
            good = len(head)
            for number, line in enumerate(stream, 2):
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError):
                    break
                if not line.endswith(b"\n"):
                    break
                key, rows = _checked(path, number, content)
                finished[key] = rows
                good += len(line)
            return finished, good
    except OSError as error:
        raise unreadable(path, error) from error


def _checked(path: Path, number: int, content: Any) -> tuple[FileKey, list[ResultRow]]:
    match content:
        case [[str() as name, int() as size, int() as modified], [_, *_] as rows]:
            for row in rows:
                _check_row(path, number, row)
            return (name, size, modified), rows
    raise _invalid(path, number, "names no file with its rows")


def _check_row(path: Path, number: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise _invalid(path, number, "holds a row that is not an object")
    series = "slices" in row
    for key, types in (_TYPES | _SERIES_TYPES if series else _TYPES).items():
        if key not in row or type(row[key]) not in types:
            raise _invalid(path, number, f"lacks a usable {key!r}")
    values = list(row["probabilities"].values())
    if not values or not all(type(value) is float and isfinite(value) for value in values):
        raise _invalid(path, number, "has 'probabilities' that are no numbers")
    if row["label"] not in row["probabilities"]:
        raise _invalid(path, number, "has a 'label' without a probability")
    if not all(isinstance(text, str) for text in row["warnings"]):
        raise _invalid(path, number, "has 'warnings' that are no text")
    if series:
        if not isinstance(row["slices"], list) or not row["slices"]:
            raise _invalid(path, number, "has no usable 'slices'")
        for each in row["slices"]:
            _check_row(path, number, each)


def _invalid(path: Path, number: int, problem: str) -> FileError:
    item, hint = f"{path}, line {number}", "delete the journal, or discard it with --restart"
    return FileError(item, problem, hint, code="file.invalid_journal")


def _append(path: Path, stream: RawIOBase, data: bytes) -> None:
    try:
        while data:
            data = data[stream.write(data) or 0 :]  # on a disk that is nearly full, only a part
    except OSError as error:
        raise unwritable(path, error) from error


def _line(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()
