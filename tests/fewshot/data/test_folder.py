"""The image-folder layout, with and without parts, and the groups of DICOM files."""

import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.folder import VALIDATION_NOTE, read_folder
from tests.errors import refuses
from tests.fewshot.data.files import dicom, png


def test_without_parts(tmp_path: Path) -> None:
    for name in ("b-class/2.png", "b-class/sub/1.png", "a_class/x.png"):
        png(tmp_path / name)
    for name in ("a_class/.hidden.png", "a_class/Thumbs.db", "a_class/labels.CSV", ".git/1.png"):
        png(tmp_path / "x.png").rename(_made(tmp_path / name))
    png(tmp_path / "b-class" / "other.png").rename(tmp_path / "b-class" / "odd.xyz")
    dataset = read_folder(tmp_path)
    assert dataset.name == tmp_path.name
    assert dataset.classes == ("a class", "b class")
    assert dataset.prompts == ("This is a photo of a class", "This is a photo of b class")
    assert [(item.path.relative_to(tmp_path).as_posix(), item.label) for item in dataset.items] == [
        ("a_class/x.png", 0),
        ("b-class/2.png", 1),
        ("b-class/odd.xyz", 1),
        ("b-class/sub/1.png", 1),
    ]
    assert {(item.part, item.group, item.masks) for item in dataset.items} == {(None, None, ())}


def test_a_validation_part_is_trained_on_and_said(tmp_path: Path) -> None:
    for name in ("Train/a/1.png", "Train/b/1.png", "Val/a/2.png", "test/a/3.png", "test/b/3.png"):
        png(tmp_path / name)
    dataset = read_folder(tmp_path)
    parts = {item.path.relative_to(tmp_path).as_posix(): item.part for item in dataset.items}
    assert {name for name, part in parts.items() if part == "train"} == {
        *("Train/a/1.png", "Train/b/1.png", "Val/a/2.png")
    }
    assert dataset.notes == (VALIDATION_NOTE,)
    (tmp_path / "Val").rename(tmp_path / "validation")
    assert [item.part for item in read_folder(tmp_path).items].count("train") == 3


def test_folders_of_other_programs_are_left_out_and_said_once(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "1.png")
    for name in (".ipynb_checkpoints", "__MACOSX/a", "a/@eaDir", "b/x/lost+found"):
        png(tmp_path / name / "1.png")
    dataset = read_folder(tmp_path)
    assert [item.path.relative_to(tmp_path).as_posix() for item in dataset.items] == [
        *("a/1.png", "b/1.png")
    ]
    (note,) = dataset.notes
    assert ".ipynb_checkpoints" in note
    assert "3 others" in note


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    png(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    png(root / "b" / "2.png")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "loop").symlink_to(root / "b")
    dataset = read_folder(root)
    assert [item.path.relative_to(root).as_posix() for item in dataset.items] == [
        *("a/1.png", "b/2.png")
    ]


def test_class_names_are_normalised(tmp_path: Path) -> None:
    png(tmp_path / unicodedata.normalize("NFD", "Läsion_ groß") / "1.png")
    assert read_folder(tmp_path).classes == ("Läsion groß",)
    png(tmp_path / "b\u200b" / "1.png")
    with refuses(InputError, "input.class_name", "b\u200b"):
        read_folder(tmp_path)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "TESTING")])
def test_two_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (f"{names[0]}/b-c/1.png", f"{names[0]}/a/1.png", f"{names[1]}/b_c/1.png"):
        png(tmp_path / name)
    png(tmp_path / names[1] / "a" / "2.png")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("a", "b c")
    found = {item.path.relative_to(tmp_path).as_posix(): item for item in dataset.items}
    assert list(found) == sorted(found)
    assert {(name.split("/")[0], item.part) for name, item in found.items()} == {
        (names[0], "train"),
        (names[1], "test"),
    }
    assert found[f"{names[1]}/b_c/1.png"].label == found[f"{names[0]}/b-c/1.png"].label == 1


def test_dicom_files_are_grouped_by_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "1.dcm", "Doe^Jane")
    dicom(tmp_path / "a" / "2", " Doe^Jane ")
    dicom(tmp_path / "a" / "3.img", "Roe")  # recognised by the magic number
    dicom(tmp_path / "a" / "4.dcm", "  ")
    png(tmp_path / "a" / "5.png")
    (tmp_path / "a" / "6.dcm").write_bytes(b"no DICOM at all")
    (tmp_path / "a" / "7.dcm").write_bytes(dicom(tmp_path / "x.dcm", "Doe").read_bytes()[:180])
    jane, roe = (sha256(name.encode()).hexdigest() for name in ("Doe^Jane", "Roe"))
    groups = [item.group for item in read_folder(tmp_path).items]
    assert groups == [jane, jane, roe, None, None, None, None]


@pytest.mark.parametrize(
    ("folders", "code", "named"),
    [
        ([], "dataset.empty", []),
        (["train", "test"], "dataset.empty", ["/train"]),
        (["a/"], "dataset.empty", ["/a"]),
        (["a-b/1.png", "a_b/1.png"], "dataset.wrong_layout", ["'a b'"]),
        (["train/a/1.png", "test/b/1.png"], "dataset.missing_class", ["'a'", "train"]),
        (
            ["train/a/1.png", "test/a/1.png", "test/b/1.png"],
            "dataset.missing_class",
            ["'b'", "test"],
        ),
        (["train/a/1.png", "b/1.png"], "dataset.wrong_layout", [" b ", " train"]),
        (
            ["train/a/1.png", "test/a/1.png", "val/a/1.png", "new/a/1.png"],
            "dataset.wrong_layout",
            [" new ", " test and train and val"],
        ),
        (["train/a/1.png", "val/a/1.png"], "dataset.wrong_layout", [" train and val ", " test "]),
        (["val/a/1.png", "test/a/1.png"], "dataset.wrong_layout", [" test and val ", " train "]),
        (
            ["train/a/1.png", "val/b/1.png", "test/a/1.png"],
            "dataset.missing_class",
            ["'b'", "train"],
        ),
        (["Glioma/1.png", "glioma/1.png"], "input.similar_classes", ["'Glioma'", "'glioma'"]),
        (
            ["train/Glioma/1.png", "test/glioma/1.png"],
            "input.similar_classes",
            ["'Glioma'", "'glioma'"],
        ),
        (["train/a/1.png"], "dataset.wrong_layout", [" train ", " test folder"]),
        (["Testing/a/1.png"], "dataset.wrong_layout", [" Testing ", " train folder"]),
        (
            ["train/a/1.png", "test/a/1.png", "Training/a/1.png"],
            "dataset.wrong_layout",
            [" Training", " train"],
        ),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, folders: list[str], code: str, named: list[str]
) -> None:
    for name in folders:
        if name.endswith(".png"):
            png(tmp_path / name)
        else:
            (tmp_path / name).mkdir()
    with refuses(InputError, code, str(tmp_path)) as caught:
        read_folder(tmp_path)
    assert all(name in f"{caught.value.item} {caught.value.problem}" for name in named)


def test_no_folder(tmp_path: Path) -> None:
    with refuses(FileError, "file.missing", "missing"):
        read_folder(tmp_path / "missing")
