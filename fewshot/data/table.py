"""Tables: a CSV file that lists images and their labels."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset, Item, Part
from medfocus.fewshot.data.folder import VALIDATION_NOTE, part_of
from medfocus.fewshot.data.splitting.groups import group_of, patient_group
from medfocus.files.file_errors import unreadable
from medfocus.models.clip.class_names import check_distinct, class_name
from medfocus.models.clip.text import class_prompt

_REQUIRED = ("path", "label")


@dataclass(frozen=True)
class _Row:
    number: int  # as in a spreadsheet: the header is row 1
    cells: dict[str, str]


def read_table(path: Path, outside: bool = False) -> Dataset:
    """Read a CSV file in UTF-8 with a header and one row per image.

    Columns: `path` and `label` are required; optional are `group` (what a split keeps together;
    if blank, a DICOM file's patient), `split` (train, val or test in every row, in any case; val is
    trained on too) and `mask` (of the lesion; several are separated by semicolons). Other columns
    are ignored. Paths are relative to the table's folder and must stay inside it, also through
    links, unless `outside`. Classes are sorted by name.

    Args:
        path: of the table.
        outside: read files outside the table's folder too; the data set's root is then the folder
            that holds them all.

    Raises:
        FileError: the table is missing or cannot be read.
        InputError: it is not UTF-8, columns are missing or duplicated, it has no rows, or a row
            cannot be used; the row is named by its number.
    """
    home = path.parent.resolve()
    root = Path("/") if outside else home
    rows = list(_rows(path))
    if not rows:
        raise InputError(
            str(path), "has no rows below its header", "add one row per image", code="dataset.empty"
        )
    labels = {row.number: _label(path, row) for row in rows}
    classes = tuple(sorted(set(labels.values())))
    check_distinct(classes, str(path))
    items: dict[Path, tuple[int, Item]] = {}
    for row in rows:
        item = _item(path, home, root, row, classes.index(labels[row.number]))
        if item.path in items:
            raise _wrong(
                path, row, f"names the same file as row {items[item.path][0]}", "remove one row"
            )
        items[item.path] = row.number, item
    files = [file for _, item in items.values() for file in (item.path, *item.masks)]
    validation = any(part_of(row.cells.get("split", "")) == "val" for row in rows)
    return Dataset(
        name=path.stem,
        root=Path(os.path.commonpath([home, *(file.parent for file in files)])),
        classes=classes,
        prompts=tuple(class_prompt(name) for name in classes),
        items=tuple(sorted((item for _, item in items.values()), key=lambda item: item.path)),
        notes=(VALIDATION_NOTE,) if validation else (),
    )


def _rows(path: Path) -> Iterator[_Row]:
    try:
        # utf-8-sig: spreadsheets put a byte-order mark first.
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True)]
    except OSError as error:
        raise unreadable(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            str(path),
            "is not CSV in UTF-8",
            "save it as CSV in UTF-8",
            code="dataset.invalid_table",
        ) from error
    header = lines[0] if lines else []
    _check_header(path, header)
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        if len(line) != len(header):
            raise InputError(
                f"{path}, row {number}",
                f"has {len(line)} cells under {len(header)} columns",
                "quote cells that contain a comma",
                code="dataset.invalid_row",
            )
        yield _Row(number, dict(zip(header, line, strict=True)))


def _check_header(path: Path, header: list[str]) -> None:
    missing = [column for column in _REQUIRED if column not in header]
    if missing:
        raise InputError(
            str(path),
            f"has no column {' and no column '.join(missing)}; its columns are"
            f" {', '.join(header) or 'none'}",
            "name the columns in the first row, separated by commas",
            code="dataset.invalid_table",
        )
    known = (*_REQUIRED, "group", "split", "mask")
    duplicated = [column for column in known if header.count(column) > 1]
    if duplicated:
        raise InputError(
            str(path),
            f"has two columns {duplicated[0]}",
            "remove one",
            code="dataset.invalid_table",
        )


def _item(path: Path, home: Path, root: Path, row: _Row, label: int) -> Item:
    image = _inside(path, home, root, row, _cell(path, row, "path"))
    masks = [name.strip() for name in row.cells.get("mask", "").split(";")]
    return Item(
        path=image,
        label=label,
        group=group_of(row.cells.get("group", "")) or patient_group(image),
        part=_part(path, row),
        masks=tuple(_inside(path, home, root, row, name) for name in masks if name),
    )


def _cell(path: Path, row: _Row, column: str) -> str:
    if not row.cells[column]:
        raise _wrong(path, row, f"has a blank {column}", "fill it in, or remove the row")
    return row.cells[column]


def _label(path: Path, row: _Row) -> str:
    name = class_name(_cell(path, row, "label"), f"{path}, row {row.number}")
    if not name:
        raise _wrong(path, row, "has a blank label", "fill it in, or remove the row")
    return name


def _part(path: Path, row: _Row) -> Part | None:
    name = row.cells.get("split")
    if name is None:
        return None
    part = part_of(name)
    if part is None:
        raise _wrong(
            path,
            row,
            f"has the split {name!r}",
            "write train, val or test in every row, or leave the column out",
        )
    return "test" if part == "test" else "train"


def _inside(path: Path, home: Path, root: Path, row: _Row, name: str) -> Path:
    """A file named in the table; links are resolved before its place is checked."""
    try:
        file = (home / name).resolve()
        if not file.is_relative_to(root):
            raise InputError(
                f"{path}, row {row.number}",
                f"names {name!r}, outside the table's folder",
                "move the file into the table's folder, or allow it with --allow-outside",
                code="dataset.outside_folder",
            )
        if file.is_file():
            return file
    except (OSError, RuntimeError, ValueError):
        pass  # a name that no file can have, or a loop of links
    raise _wrong(path, row, f"names {name!r}, which is not a file", "check the path")


def _wrong(path: Path, row: _Row, problem: str, hint: str) -> InputError:
    return InputError(f"{path}, row {row.number}", problem, hint, code="dataset.invalid_row")
