"""Split files: only what was saved is read back."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.splitting import split_file
from medfocus.fewshot.data.splitting.splits import (
    Shots,
    Split,
    make_split,
    read_split,
)
from tests.errors import refuses
from tests.fewshot.data.files import dicom, png

Saved = tuple[Dataset, Split, Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Two classes of six images, two shots per class, and one DICOM file."""
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


def test_a_split_belongs_to_its_head(saved: Saved) -> None:
    dataset, split, path = saved
    assert split_file.tested_split(path, dataset, "a" * 64) == split
    path.write_text(split.to_json("a" * 64), encoding="utf-8")
    assert split_file.tested_split(path, dataset, "a" * 64) == read_split(path, dataset) == split
    with refuses(InputError, "split.other_head", str(path)):
        split_file.tested_split(path, dataset, "b" * 64)


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
    ("tamper", "code", "named"),
    [
        (_set("schema", 2), "invalid", "schema 1"),
        (_set("schema", True), "invalid", "'schema'"),
        (_set("note", "x"), "invalid", "unknown key 'note'"),
        (lambda content: content.pop("seed"), "invalid", "lacks the key 'seed'"),
        (_set("seed", "7"), "invalid", "'seed'"),
        (_set("train", {}), "invalid", "'train'"),
        (_set("test", []), "invalid", "test"),
        (lambda content: content["train"].append("x"), "invalid", "object"),
        (_set_file("group", "x"), "invalid", "unknown key 'group'"),
        (lambda content: content["train"][0].pop("sha256"), "invalid", "lacks the key 'sha256'"),
        (lambda content: content["test"].append(content["train"][0]), "invalid", "normal/"),
        (_set("classes", ["normal", "oedema"]), "class_mismatch", "normal, oedema"),
        (_set("classes", ["ödem", "normal"]), "class_mismatch", "ödem, normal"),
        (_set_file("file", "normal/7.png"), "missing_file", "normal/7.png: "),
        (_set_file("file", "../split.json"), "missing_file", "../split.json: "),
        (_set_file("file", ["x"]), "invalid", "train[0].file"),
        (_set("head", 7), "invalid", "'head'"),
        (_set("classes", ["normal", 7]), "invalid", "'classes'"),
        (_set_file("class", "ödem"), "label_mismatch", "normal/"),
        (_set_file("sha256", "0" * 64), "changed_file", "normal/"),
        (_set_file("sha256", None), "invalid", "train[0].sha256"),
        (_set_file("sha256", []), "invalid", "train[0].sha256"),
        (_set_file("class", {}), "invalid", "train[0].class"),
    ],
)
def test_tampering(
    saved: Saved, tamper: Callable[[dict[str, Any]], None], code: str, named: str
) -> None:
    dataset, _, path = saved
    content = json.loads(path.read_text(encoding="utf-8"))
    tamper(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    for read in (read_split, partial(split_file.tested_split, head="")):
        with refuses(InputError, f"split.{code}") as caught:
            read(path, dataset)
        assert named in str(caught.value)


def test_files_that_changed(saved: Saved) -> None:
    dataset, split, path = saved
    first, second = (dataset.items[index].path for index in split.train[:2])
    original = first.read_bytes()
    first.write_bytes(original + b"x")
    with refuses(InputError, "split.changed_file", split.train_files[0].file):
        read_split(path, dataset)
    first.write_bytes(original)
    second.unlink()
    with refuses(InputError, "split.missing_file", split.train_files[1].file):
        read_split(path, read_folder(dataset.root))


def test_a_patient_that_is_now_in_both_parts(saved: Saved) -> None:
    dataset, split, path = saved
    both = {split.train[0], split.test[0]}
    items = tuple(
        replace(item, group="g") if index in both else item
        for index, item in enumerate(dataset.items)
    )
    with refuses(InputError, "split.shared_groups", dataset.name) as caught:
        read_split(path, replace(dataset, items=items))
    assert "1 in training and 1 in test" in caught.value.problem


def test_files_that_are_not_a_split(saved: Saved, tmp_path: Path) -> None:
    dataset, split, path = saved
    deep = b"[" * 100_000 + b"]" * 100_000
    for content in (b"{", b"\xff", b"[]", deep, b'{"schema": NaN}', b'{"a": 1, "a": 2}'):
        path.write_bytes(content)
        with refuses(InputError, "split.invalid", str(path)):
            read_split(path, dataset)
    with refuses(FileError, "file.missing", "missing.json"):
        read_split(tmp_path / "missing.json", dataset)
    with refuses(FileError, "file.unwritable", str(path / "split.json")):
        split.save(path / "split.json")  # below a file
    split.save(tmp_path / "new" / "split.json")
    assert (tmp_path / "new" / "split.json").is_file()


def test_a_failed_save_leaves_the_old_file(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    _, split, path = saved
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with refuses(FileError, "file.unwritable", str(path)):
        replace(split, seed=8).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["split.json"]
