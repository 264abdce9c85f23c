"""Reads a data set from a path: a table, a published data set or an image folder."""

from dataclasses import replace
from pathlib import Path

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.recipes import read_recipe
from medfocus.fewshot.data.table import read_table
from medfocus.files.file_errors import unreadable

TABLE = "dataset.csv"
"""A folder with a table of this name is read by that table."""

_HINT = "pass a table (.csv) or an image folder"


def read_dataset(path: Path, recipe: str | None = None, outside: bool = False) -> Dataset:
    """Read labelled images from a CSV file or a folder.

    Args:
        path: a table; or a folder, which is read by its `dataset.csv` if it has one.
        recipe: a key of `RECIPES`: the folder is read in that data set's published layout and
            checked to be complete.
        outside: read files that a table names outside its folder too.

    Raises:
        FileError: a file or folder is missing or cannot be read.
        InputError: the path does not hold a usable data set.
    """
    try:
        return _read(path, recipe, outside)
    except OSError as error:
        raise unreadable(path, error) from error


def _read(path: Path, recipe: str | None, outside: bool) -> Dataset:
    if recipe is not None:
        return read_recipe(recipe, path)
    if path.is_dir() and (path / TABLE).is_file():
        return replace(read_table(path / TABLE, outside), name=path.resolve().name)
    if path.is_dir():
        return read_folder(path)
    if path.is_file() and path.suffix.lower() != ".csv":
        raise InputError(str(path), "is not a CSV file", _HINT, code="dataset.invalid_table")
    if not path.exists():
        raise FileError(str(path), "does not exist", _HINT, code="file.missing")
    return read_table(path, outside)
