"""Class names are in one form, and none looks like another."""

import unicodedata
from pathlib import Path

import pytest

from medfocus.errors import FileError, InputError
from medfocus.models.clip.class_names import check_distinct, class_name, read_classes
from tests.errors import refuses


def test_one_form_for_what_looks_the_same() -> None:
    name = "no Läsion 肺"
    decomposed = unicodedata.normalize("NFD", name)
    assert decomposed != name
    for text in (name, decomposed, f"  {name}\t", name.replace(" ", " \u00a0\n")):
        assert class_name(text, "x") == name
    for text in ("a\u200bb", "\ufeffa", "a\x00"):
        with refuses(InputError, "input.class_name", "cases.csv, row 2"):
            class_name(text, "cases.csv, row 2")


@pytest.mark.parametrize(
    "pair",
    [
        ("Glioma", "glioma"),
        ("COVID-19", "covid 19"),
        ("a_b", "a b"),
        ("straße", "STRASSE"),
        ("ＡＢ", "AB"),
    ],
)
def test_names_that_look_like_one_are_refused_with_both(pair: tuple[str, str]) -> None:
    with refuses(InputError, "input.similar_classes", "set") as caught:
        check_distinct(["other", pair[0], "more", pair[1]], "set")
    assert all(repr(name) in caught.value.problem for name in pair)


def test_names_that_differ_are_accepted() -> None:
    check_distinct(["HER2", "HER2-", "HER2+", "grade 1", "grade -1", "T1", "T 1", "T11"], "set")


def test_a_list_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfb  c\r\n\r\n a \n")  # with a byte order mark
    assert read_classes(path) == ("b c", "a")
    path.write_text("Glioma\nother\nglioma\n")
    with refuses(InputError, "input.similar_classes", str(path)):
        read_classes(path)


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "input.empty"), ("\n \n", "input.empty"), ("a\na", "input.duplicate_class")],
)
def test_unusable_class_names_are_refused(content: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(content)
    with refuses(InputError, code, "classes.txt"):
        read_classes(tmp_path / "classes.txt")


def test_unreadable_class_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    with refuses(FileError, "file.missing", "classes.txt"):
        read_classes(path)
    path.write_bytes(b"\xff\xfe\xff")
    with refuses(FileError, "file.unreadable", "classes.txt"):
        read_classes(path)
