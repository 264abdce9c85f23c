"""Which reader a path is given to."""

from pathlib import Path

import pytest

from medfocus.errors import InputError
from medfocus.fewshot.data.reader import read_dataset
from tests.fewshot.data.files import png


def test_folders_and_tables(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    assert read_dataset(tmp_path).classes == ("a",)
    (tmp_path / "dataset.csv").write_text("path,label\na/1.png,b\n")
    by_folder = read_dataset(tmp_path)
    assert (by_folder.name, by_folder.classes) == (tmp_path.name, ("b",))
    by_table = read_dataset(tmp_path / "dataset.csv")
    assert (by_table.name, by_table.items) == ("dataset", by_folder.items)


def test_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no CSV file"):
        read_dataset(png(tmp_path / "a.png"))
    with pytest.raises(InputError, match="does not exist"):
        read_dataset(tmp_path / "missing.csv")


def test_a_recipe_comes_first(tmp_path: Path) -> None:
    (tmp_path / "dataset.csv").write_text("path,label\n")
    with pytest.raises(InputError, match="holds none of the folders of the Covid-19 Image Dataset"):
        read_dataset(tmp_path, "covid")
