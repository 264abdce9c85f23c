"""Recipes on trees of empty files in the published layouts."""

from collections import Counter
from pathlib import Path

import pytest

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.recipes import RECIPES, read_recipe
from tests.errors import refuses


def unpack(recipe: str, root: Path) -> None:
    """Create empty files for the archive's images and BUSI's masks."""
    published = RECIPES[recipe]
    for part in published.parts:
        for name, count in zip(published.folders, part.counts, strict=True):
            folder = root / part.folder / name
            folder.mkdir(parents=True)
            for number in range(1, count + 1):
                (folder / f"{name} ({number}).png").touch()
                if recipe == "breast":
                    (folder / f"{name} ({number})_mask.png").touch()
    if recipe == "breast":
        (root / "benign" / "benign (4)_mask_1.png").touch()
        (root / "benign" / "benign (4)_mask_2.png").touch()


@pytest.mark.parametrize("recipe", RECIPES)
def test_complete_data_sets(tmp_path: Path, recipe: str) -> None:
    published = RECIPES[recipe]
    home = tmp_path / "archive"
    unpack(recipe, home)
    dataset = read_recipe(recipe, home)
    assert read_recipe(recipe, tmp_path) == dataset  # the folder above
    assert (dataset.name, dataset.root) == (recipe, home)
    assert dataset.classes == published.classes
    assert len(dataset.prompts) == len(published.classes)
    assert list(dataset.items) == sorted(dataset.items, key=lambda item: item.path)
    counts = Counter((item.part, item.label) for item in dataset.items)
    assert counts == {
        (part.part, label): count
        for part in published.parts
        for label, count in enumerate(part.counts)
    }
    for item in dataset.items:
        assert item.path.parent.name == published.folders[item.label]


def test_totals_as_published() -> None:
    totals = {name: [sum(part.counts) for part in recipe.parts] for name, recipe in RECIPES.items()}
    assert totals == {
        "covid": [251, 66],
        "lung": [6054, 2025],
        "brain": [5712, 1311],
        "breast": [780],
    }


def test_a_third_part_is_ignored(tmp_path: Path) -> None:
    unpack("lung", tmp_path)
    (tmp_path / "val" / "Normal").mkdir(parents=True)
    (tmp_path / "val" / "Normal" / "1.png").touch()
    assert len(read_recipe("lung", tmp_path).items) == 6054 + 2025


def test_masks_of_lesions(tmp_path: Path) -> None:
    unpack("breast", tmp_path)
    dataset = read_recipe("breast", tmp_path)
    masks = {item.path.name: [mask.name for mask in item.masks] for item in dataset.items}
    assert masks["benign (4).png"] == [
        f"benign (4)_mask{suffix}.png" for suffix in ("", "_1", "_2")
    ]
    assert masks["malignant (210).png"] == ["malignant (210)_mask.png"]
    assert masks["normal (1).png"] == []
    assert not any("mask" in name for name in masks)
    (tmp_path / "malignant" / "malignant (7)_mask.png").unlink()
    with refuses(InputError, "dataset.incomplete", str(tmp_path)) as caught:
        read_recipe("breast", tmp_path)
    assert "malignant (7).png" in caught.value.problem


def test_an_incomplete_archive(tmp_path: Path) -> None:
    unpack("covid", tmp_path)
    for path in (tmp_path / "test" / "Normal").iterdir():
        path.unlink()
    (tmp_path / "test" / "Normal").rmdir()
    for path in list((tmp_path / "train" / "Covid").iterdir())[:100]:
        path.unlink()
    (tmp_path / "train" / "Normal" / "one more.png").touch()
    with refuses(InputError, "dataset.incomplete", str(tmp_path)) as caught:
        read_recipe("covid", tmp_path)
    assert "train/Covid has 11 of 111 images" in caught.value.problem
    assert "train/Normal has 71 of 70 images" in caught.value.problem
    assert "test/Normal is missing, with all of 20 images" in caught.value.problem
    assert "Viral Pneumonia" not in caught.value.problem
    assert RECIPES["covid"].page in caught.value.hint


def test_a_single_part(tmp_path: Path) -> None:
    unpack("brain", tmp_path)
    (tmp_path / "Testing").rename(tmp_path / "testing-images")
    with refuses(InputError, "dataset.incomplete", str(tmp_path)) as caught:
        read_recipe("brain", tmp_path)
    for folder, count in zip(RECIPES["brain"].folders, (300, 306, 405, 300), strict=True):
        assert f"Testing/{folder} is missing, with all of {count} images" in caught.value.problem
    assert "Training" not in caught.value.problem


def test_wrong_folders(tmp_path: Path) -> None:
    with refuses(InputError, "dataset.incomplete", str(tmp_path)) as caught:
        read_recipe("brain", tmp_path)
    assert "Training/glioma" in caught.value.problem
    with refuses(FileError, "file.missing", "missing") as missing:
        read_recipe("breast", tmp_path / "missing")
    assert RECIPES["breast"].page in missing.value.hint
    with refuses(InputError, "dataset.unknown_recipe", "'liver'") as caught:
        read_recipe("liver", tmp_path)
    assert all(name in caught.value.hint for name in RECIPES)
