"""Which reader a path is read with."""

from pathlib import Path

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.reader import read_dataset
from tests.errors import refuses
from tests.fewshot.data.files import png


def test_folders_and_tables(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    assert read_dataset(tmp_path).classes == ("a",)
    (tmp_path / "dataset.csv").write_text("path,label\na/1.png,b\n")
    by_folder = read_dataset(tmp_path)
    assert (by_folder.name, by_folder.classes) == (tmp_path.name, ("b",))
    by_table = read_dataset(tmp_path / "dataset.csv")
    assert (by_table.name, by_table.items) == ("dataset", by_folder.items)


def test_neither_folder_nor_table(tmp_path: Path) -> None:
    with refuses(InputError, "dataset.invalid_table", "a.png"):
        read_dataset(png(tmp_path / "a.png"))
    with refuses(FileError, "file.missing", "missing.csv"):
        read_dataset(tmp_path / "missing.csv")


def test_a_recipe_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "dataset.csv").write_text("path,label\n")
    with refuses(InputError, "dataset.incomplete", str(tmp_path)) as caught:
        read_dataset(tmp_path, "covid")
    assert "Covid-19 Image Dataset" in caught.value.problem
