"""Split files: what was saved is read back, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.splitting.splits import Shots, Split, make_split, read_split
from tests.fewshot.data.files import dicom, png

Saved = tuple[Dataset, Split, Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Two classes of six images, of two shots each, and one DICOM file."""
    root = tmp_path / "data"
    for folder in ("normal", "ödem"):
        for number in range(6):
            png(root / folder / f"{number}.png")
    dicom(root / "normal" / "scan.dcm", "Doe^Jane")
    dataset = read_folder(root)
    split = make_split(dataset, Shots(2), 7)
    split.save(tmp_path / "split.json")
    return dataset, split, tmp_path / "split.json"


def test_round_trip(saved: Saved) -> None:
    dataset, split, path = saved
    assert read_split(path, dataset) == split
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["split.json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {key: content[key] for key in ("schema", "dataset", "classes", "amount", "seed")} == {
        "schema": 1,
        "dataset": "data",
        "classes": ["normal", "ödem"],
        "amount": "2 shots",
        "seed": 7,
    }
    assert len(content["train"]) == 4
    assert set(content["train"][0]) == {"file", "sha256", "class"}


def test_groups_are_not_in_it(saved: Saved) -> None:
    dataset, _, path = saved
    (group,) = {item.group for item in dataset.items} - {None}
    make_split(dataset, Shots(4), 0).save(path)
    assert group is not None
    assert group not in path.read_text(encoding="utf-8")
    assert "Doe" not in path.read_text(encoding="utf-8")


def test_the_same_bytes_again(saved: Saved) -> None:
    dataset, _, path = saved
    before = path.read_bytes()
    make_split(dataset, Shots(2), 7).save(path)
    assert path.read_bytes() == before


def test_a_folder_that_moved(saved: Saved, tmp_path: Path) -> None:
    dataset, split, path = saved
    moved = read_folder(dataset.root.rename(tmp_path / "elsewhere"))
    assert read_split(path, moved) == split


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: value})


def _set_file(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["train"][0].update({key: value})


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_set("schema", 2), "is no split of schema 1"),
        (_set("schema", True), "holds no int as 'schema'"),
        (_set("note", "x"), "has the unknown key 'note'"),
        (lambda content: content.pop("seed"), "lacks the key 'seed'"),
        (_set("seed", "7"), "holds no int as 'seed'"),
        (_set("train", {}), "holds no list as 'train'"),
        (_set("test", []), "lists no files to test on"),
        (_set("classes", ["normal", "oedema"]), "is of the classes normal, oedema; the data"),
        (_set("classes", ["ödem", "normal"]), "is of the classes ödem, normal; the data set's"),
        (lambda content: content["train"].append("x"), "lists a file that is no object"),
        (_set_file("group", "x"), "has the unknown key 'group'"),
        (lambda content: content["train"][0].pop("sha256"), "lacks the key 'sha256'"),
        (_set_file("file", "normal/7.png"), "normal/7.png: is in .* but not in the data set"),
        (_set_file("file", "../split.json"), "../split.json: is in .* but not in the data set"),
        (_set_file("file", ["x"]), "but not in the data set"),
        (_set_file("class", "ödem"), "normal/.*: is 'ödem' in .* but 'normal' in the data set"),
        (_set_file("sha256", "0" * 64), "normal/.*: has changed since the split was made"),
        (_set_file("sha256", None), "normal/.*: has changed since the split was made"),
        (lambda content: content["test"].append(content["train"][0]), "lists normal/.* twice"),
    ],
)
def test_tampering(saved: Saved, tamper: Callable[[dict[str, Any]], None], message: str) -> None:
    dataset, _, path = saved
    content = json.loads(path.read_text(encoding="utf-8"))
    tamper(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_split(path, dataset)


def test_files_that_changed(saved: Saved) -> None:
    dataset, split, path = saved
    first, second = (dataset.items[index].path for index in split.train[:2])
    original = first.read_bytes()
    first.write_bytes(original + b"x")
    with pytest.raises(InputError, match=f"{split.train_files[0].file}: has changed"):
        read_split(path, dataset)
    first.write_bytes(original)
    second.unlink()
    with pytest.raises(InputError, match=f"{split.train_files[1].file}: is in .* but not in"):
        read_split(path, read_folder(dataset.root))


def test_a_patient_that_is_on_both_sides_now(saved: Saved) -> None:
    dataset, split, path = saved
    both = {split.train[0], split.test[0]}
    items = tuple(
        replace(item, group="g") if index in both else item
        for index, item in enumerate(dataset.items)
    )
    with pytest.raises(InputError, match=r"1 groups, .* 1 to train on and 1 to test on"):
        read_split(path, replace(dataset, items=items))


def test_files_that_are_no_split(saved: Saved, tmp_path: Path) -> None:
    dataset, split, path = saved
    for content, message in ((b"{", "no JSON"), (b"\xff", "no JSON"), (b"[]", "no split")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_split(path, dataset)
    with pytest.raises(InputError, match="cannot be read"):
        read_split(tmp_path / "missing.json", dataset)
    with pytest.raises(InputError, match="cannot be written"):
        split.save(path / "split.json")  # below a file
    split.save(tmp_path / "new" / "split.json")
    assert (tmp_path / "new" / "split.json").is_file()


def test_a_failed_save_leaves_the_old_file(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    _, split, path = saved
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        replace(split, seed=8).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["split.json"]
