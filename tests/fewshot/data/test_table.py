"""Tables of images: what is read, and that no row leads out of the table's folder."""

from hashlib import sha256
from pathlib import Path

import pytest

from medfocus.errors import InputError
from medfocus.fewshot.data.table import read_table
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
        (root / "c.dcm", 1, jane, "test"),  # no group in the table, but a PatientID
        (root / "sub/a.png", 1, jane, "train"),
    ]
    assert [item.masks for item in dataset.items] == [(), (), (root / "m 1.png", root / "m2.png")]


def test_the_columns_that_must_be_there_suffice(tmp_path: Path) -> None:
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
def test_no_row_leads_out_of_the_folder(tmp_path: Path, name: str, column: str) -> None:
    folder = tmp_path / "data"
    png(tmp_path / "secret.png")
    png(folder / "a.png")
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "links").symlink_to(tmp_path)
    name = name.format(outside=tmp_path)
    row = f"{name},x," if column == "path" else f"a.png,x,{name}"
    with pytest.raises(
        InputError, match=r"row 2: names '(link|.*secret)\.png', outside the table's folder"
    ):
        read_table(table(folder, f"path,label,mask\n{row}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path and no column label; its columns are none"),
        ("path;label\na.png;x\n", "its columns are path;label"),
        ("Path,label\na.png,x\n", "no column path; its columns are Path, label"),
        ("path,label,label\na.png,x,y\n", "two columns label"),
        ("path,label\n\n", "no rows below its header"),
        ("path,label\na.png,x\n\n,x\n", "row 4: has a blank path"),
        ("path,label\na.png, \n", "row 2: has a blank label"),
        ("path,label\na.png,x,y\n", "row 2: has 3 cells under 2 columns"),
        ("path,label\na.png\n", "row 2: has 1 cells under 2 columns"),
        ("path,label,split\na.png,x,\n", "row 2: has the split ''"),
        ("path,label,split\na.png,x,val\n", "row 2: has the split 'val'"),
        ("path,label\nb.png,x\n", "row 2: names 'b.png', which is no file"),
        ("path,label\n.,x\n", "row 2: names '.', which is no file"),
        ("path,label\na\0.png,x\n", "which is no file|is no CSV"),
        ("path,label,mask\na.png,x,m.png\n", "row 2: names 'm.png', which is no file"),
        ("path,label\na.png,x\n./a.png,x\n", "row 3: names the file of row 2 again"),
        ('path,label\na.png,"x\n', "is no CSV in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    png(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        read_table(table(tmp_path, text))


def test_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no CSV in UTF-8"):
        read_table(table(tmp_path, "path,label\na.png,nävus\n", "latin-1"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "missing.csv")
