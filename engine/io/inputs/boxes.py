"""Boxes for images: a CSV file with one box per line, matched to the inputs of a command."""

import csv
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medfocus.engine.io.inputs.files import InputFile
from medfocus.errors import InputError
from medfocus.files.file_errors import unreadable

_COLUMNS = ("file", "left", "top", "right", "bottom")
_FRAME = re.compile(r"(.+)#(\d{1,9})", re.DOTALL)

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image
FileBoxes = Box | dict[int, Box]  # of all images of a file, or of some by their number, from 0


class _Row(NamedTuple):
    line: str
    file: str
    box: Box


def read_boxes(path: Path, files: Sequence[InputFile]) -> dict[InputFile, FileBoxes]:
    """Read a CSV file in UTF-8 with the columns file, left, top, right, bottom, in any order.

    `file` is a name as results give it, `scans/a.png`, `study.zip/a.png`: relative to the current
    folder, and with "#frame", from 0, for one image of a file that holds several. Other columns are
    ignored, so that a table of results can be filled in. Not every input needs a box.

    Args:
        path: of the CSV file.
        files: the inputs.

    Raises:
        FileError: it is missing or cannot be read.
        InputError: it is no such table (`boxes.invalid_table`); a row that is no box, or a second
            one for an image (`boxes.invalid_row`); or for a file that is not among the inputs
            (`boxes.unknown_file`), which is most likely misspelt, and would else be classified
            without its box. The line is named.
    """
    inputs = {os.path.abspath(file.name): file for file in files}  # noqa: PTH100
    found: dict[InputFile, FileBoxes] = {}
    for row in _rows(path):
        file, frame = _input_of(row, inputs)
        single = found.setdefault(file, {}) if frame is not None else found.get(file)
        if frame is None and single is None:
            found[file] = row.box
        elif frame is not None and isinstance(single, dict) and frame not in single:
            single[frame] = row.box
        else:
            problem, hint = "is a second box for an image", "give each image one box"
            raise _wrong(row.line, problem, hint)
    return found


def _input_of(row: _Row, inputs: Mapping[str, InputFile]) -> tuple[InputFile, int | None]:
    """The input that a row names, and the image in it. A name may itself end like a frame's."""
    name = os.path.abspath(row.file)  # noqa: PTH100  (also of a file in an archive)
    if name in inputs:
        return inputs[name], None
    match = _FRAME.fullmatch(name)
    if match is not None and match[1] in inputs:
        return inputs[match[1]], int(match[2])
    raise InputError(
        row.line,
        f"names {row.file!r}, which is not among the inputs",
        "name it as results do, or remove the line",
        code="boxes.unknown_file",
    )


def _rows(path: Path) -> Iterator[_Row]:
    try:
        # utf-8-sig: spreadsheets put a byte-order mark first.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(path, header)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield _row(f"{path}, line {reader.line_num}", header, cells)
    except OSError as error:
        raise unreadable(path, error) from None
    except (UnicodeDecodeError, csv.Error):
        problem, hint = "is not CSV in UTF-8", "save it as CSV in UTF-8"
        raise InputError(str(path), problem, hint, code="boxes.invalid_table") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    for column in _COLUMNS:
        if header.count(column) != 1:
            problem = f"has {'several columns' if column in header else 'no column'} {column!r}"
            hint = f"name the columns in the first line: {','.join(_COLUMNS)}"
            raise InputError(str(path), problem, hint, code="boxes.invalid_table")


def _row(line: str, header: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) != len(header):
        problem = f"has {len(cells)} cells under {len(header)} columns"
        raise _wrong(line, problem, "quote cells that contain a comma")
    row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if not row["file"]:
        raise _wrong(line, "names no file", "fill it in, or remove the line")
    left, top, right, bottom = (_number(line, column, row[column]) for column in _COLUMNS[1:])
    if not (left < right and top < bottom):
        raise _wrong(line, "has no area", "give left < right and top < bottom, in pixels")
    return _Row(line, row["file"], (left, top, right, bottom))


def _number(line: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(line, f"has no finite number under {column!r}", "give pixels of the image")
    return value


def _wrong(line: str, problem: str, hint: str) -> InputError:
    return InputError(line, problem, hint, code="boxes.invalid_row")
