"""One path to a data set: a table, a published data set or an image folder."""

from dataclasses import replace
from pathlib import Path

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.recipes import read_recipe
from medfocus.fewshot.data.table import read_table

TABLE = "dataset.csv"
"""In a folder, this table says what is in it."""


def read_dataset(path: Path, recipe: str | None = None) -> Dataset:
    """Read labelled images from a CSV file or a folder.

    Args:
        path: a table; or a folder, which is read by its `dataset.csv` if it has one.
        recipe: of a published data set, a key of `RECIPES`: the folder is read as its authors
            laid it out, and checked to be whole.

    Raises:
        InputError: what cannot be read as a data set, naming the item and the hint.
    """
    try:
        return _read(path, recipe)
    except OSError as error:
        raise InputError(
            str(error.filename or path),
            f"cannot be read ({error.strerror})",
            "check that you may read this folder and those in it",
        ) from error


def _read(path: Path, recipe: str | None) -> Dataset:
    if recipe is not None:
        return read_recipe(recipe, path)
    if path.is_dir() and (path / TABLE).is_file():
        return replace(read_table(path / TABLE), name=path.resolve().name)
    if path.is_dir():
        return read_folder(path)
    if path.is_file() and path.suffix.lower() != ".csv":
        raise InputError(str(path), "is no CSV file", "give a table (.csv) or an image folder")
    if not path.exists():
        raise InputError(str(path), "does not exist", "give a table (.csv) or an image folder")
    return read_table(path)
