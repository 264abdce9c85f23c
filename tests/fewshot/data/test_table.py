"""Tables of images: what is read, and that no row leads outside the table's folder."""

import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest

from medfocus.errors import FileError, InputError
from medfocus.fewshot.data.folder import VALIDATION_NOTE
from medfocus.fewshot.data.table import read_table
from tests.errors import refuses
from tests.fewshot.data.files import dicom, png


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cases.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_every_column(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.png", "m 1.png", "m2.png"):
        png(tmp_path / name)
    dicom(tmp_path / "c.dcm", "Jane")
    text = (
        "path,label,age,group,split,mask\r\n"
        "sub/a.png,tumour,7,Jane,train,m 1.png; m2.png\r\n"
        "\r\n"
        f'{tmp_path / "b.png"},"no, tumour",,Joe,test,\r\n'
        "./sub/../c.dcm,tumour,8,,test,\r\n"
    )
    dataset = read_table(table(tmp_path, text, "utf-8-sig"))
    assert dataset.name == "cases"
    assert dataset.classes == ("no, tumour", "tumour")
    assert dataset.prompts == ("This is a photo of no, tumour", "This is a photo of tumour")
    root = tmp_path.resolve()
    assert dataset.root == root
    jane, joe = (sha256(name.encode()).hexdigest() for name in ("Jane", "Joe"))
    assert [(item.path, item.label, item.group, item.part) for item in dataset.items] == [
        (root / "b.png", 0, joe, "test"),
        (root / "c.dcm", 1, jane, "test"),  # no group in the table, but it has a PatientID
        (root / "sub/a.png", 1, jane, "train"),
    ]
    assert [item.masks for item in dataset.items] == [(), (), (root / "m 1.png", root / "m2.png")]


def test_the_required_columns_suffice(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    (item,) = read_table(table(tmp_path, "label,path\nx,a.png\n")).items
    assert (item.group, item.part, item.masks) == (None, None, ())


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "{outside}/secret.png",
        "link.png",
        "links/secret.png",
    ],
)
@pytest.mark.parametrize("column", ["path", "mask"])
def test_no_row_leads_outside_the_folder(tmp_path: Path, name: str, column: str) -> None:
    folder = tmp_path / "data"
    png(tmp_path / "secret.png")
    png(folder / "a.png")
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "links").symlink_to(tmp_path)
    name = name.format(outside=tmp_path)
    row = f"{name},x," if column == "path" else f"a.png,x,{name}"
    with refuses(InputError, "dataset.outside_folder", "row 2"):
        read_table(table(folder, f"path,label,mask\n{row}\n"))


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("", "invalid_table", "column path and no column label"),
        ("path;label\na.png;x\n", "invalid_table", "path;label"),
        ("Path,label\na.png,x\n", "invalid_table", "Path, label"),
        ("path,label,label\na.png,x,y\n", "invalid_table", "columns label"),
        ('path,label\na.png,"x\n', "invalid_table", "cases.csv"),
        ("path,label\n\n", "empty", "cases.csv"),
        ("path,label\na.png,x\n\n,x\n", "invalid_row", "row 4: has a blank path"),
        ("path,label\na.png, \n", "invalid_row", "row 2: has a blank label"),
        ("path,label\na.png,x,y\n", "invalid_row", "row 2: has 3 cells under 2 columns"),
        ("path,label\na.png\n", "invalid_row", "row 2: has 1 cells under 2 columns"),
        ("path,label,split\na.png,x,\n", "invalid_row", "row 2: has the split ''"),
        ("path,label,split\na.png,x,new\n", "invalid_row", "row 2: has the split 'new'"),
        ("path,label\nb.png,x\n", "invalid_row", "row 2: names 'b.png'"),
        ("path,label\n.,x\n", "invalid_row", "row 2: names '.'"),
        ("path,label\na\0.png,x\n", "invalid_row", "row 2: names"),
        ("path,label,mask\na.png,x,m.png\n", "invalid_row", "row 2: names 'm.png'"),
        ("path,label\na.png,x\n./a.png,x\n", "invalid_row", "row 3: names the same file as row 2"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, code: str, named: str) -> None:
    png(tmp_path / "a.png")
    with refuses(InputError, f"dataset.{code}") as caught:
        read_table(table(tmp_path, text))
    assert named in str(caught.value)


def test_a_split_may_be_in_any_case_and_have_a_validation_part(tmp_path: Path) -> None:
    names = ["Train", "TEST", "val", "Validation", "training"]
    for number in range(len(names)):
        png(tmp_path / f"{number}.png")
    rows = [f"{number}.png,x,{name}" for number, name in enumerate(names)]
    dataset = read_table(table(tmp_path, "\n".join(["path,label,split", *rows])))
    assert [item.part for item in dataset.items] == ["train", "test", "train", "train", "train"]
    assert dataset.notes == (VALIDATION_NOTE,)
    assert not read_table(table(tmp_path, "\n".join(["path,label,split", *rows[:2]]))).notes


def test_paths_outside_the_folder_are_read_if_the_user_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "tables" / "one"
    mask = png(tmp_path / "masks" / "a.png")
    files = [png(folder / "in.png"), png(tmp_path / "images" / "a.png")]
    text = f"path,label,mask\nin.png,x,\n{files[1]},x,../../masks/a.png\n"
    with refuses(InputError, "dataset.outside_folder", "row 3"):
        read_table(table(folder, text))
    dataset = read_table(table(folder, text), outside=True)
    root = tmp_path.resolve()
    assert dataset.root == root
    assert {item.path for item in dataset.items} == {file.resolve() for file in files}
    assert dataset.items[0].masks == (mask.resolve(),)
    within = read_table(table(folder, "path,label\nin.png,x\n"), outside=True)
    assert within.root == folder.resolve()


def test_labels_are_normalised_and_must_not_look_alike(tmp_path: Path) -> None:
    for name in "ab":
        png(tmp_path / f"{name}.png")
    decomposed = unicodedata.normalize("NFD", "große  Läsion")
    text = f"path,label\na.png,große Läsion\nb.png,{decomposed}\n"
    assert read_table(table(tmp_path, text)).classes == ("große Läsion",)
    for label, code, item in (
        ("Große-Läsion", "input.similar_classes", "cases.csv"),
        ("a\ufeff", "input.class_name", "row 3"),
        ("\u00a0", "dataset.invalid_row", "row 3"),
    ):
        text = f"path,label\na.png,große Läsion\nb.png,{label}\n"
        with refuses(InputError, code, item):
            read_table(table(tmp_path, text))


def test_another_encoding(tmp_path: Path) -> None:
    with refuses(InputError, "dataset.invalid_table", "cases.csv"):
        read_table(table(tmp_path, "path,label\na.png,nävus\n", "latin-1"))


def test_no_file(tmp_path: Path) -> None:
    with refuses(FileError, "file.missing", "missing.csv"):
        read_table(tmp_path / "missing.csv")
