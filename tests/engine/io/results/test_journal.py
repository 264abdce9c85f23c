"""A journal holds rows of the form that results have; anything else is refused by line and key."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from medfocus.engine.io.results.journal import ResultRow, open_journal
from medfocus.errors import FileError
from tests.errors import refuses

IDENTITY: ResultRow = {"medfocus": "1.2.3", "other": None}
ROW: ResultRow = {
    "source": "a.png",
    "label": "x",
    "probabilities": {"x": 0.75, "y": 0.25},
    "focused": True,
    "focus_score": None,
    "warnings": ["w"],
    "error": None,
    "later": "versions may add keys",
}
KEY = ("a.png", 3, 4)


def write(path: Path, *contents: Any) -> Path:
    lines = [json.dumps(content) for content in (IDENTITY, *contents)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_added_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.partial"
    rows = [ROW, {**ROW, "source": "a.png#1", "focus_score": 0.5}]
    with open_journal(path, IDENTITY) as journal:
        journal.add(KEY, rows)
    with open_journal(path, IDENTITY) as journal:
        assert journal.finished == {KEY: rows}
    with open_journal(path, IDENTITY, restart=True) as journal:
        assert journal.finished == {}
    with open_journal(path, IDENTITY) as journal:
        assert journal.finished == {}


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        {},
        [],
        [KEY],
        [KEY, []],
        [KEY, {}],
        [KEY, [7]],
        [KEY, [ROW], 1],
        [[*KEY, 1], [ROW]],
        [["a.png", "3", 4], [ROW]],
        [[["a.png"], 3, 4], [ROW]],
    ],
)
def test_a_line_of_another_shape_is_refused(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "j", [KEY, [ROW]], content)
    before = path.read_bytes()
    with (
        refuses(FileError, "file.invalid_journal", f"{path}, line 3"),
        open_journal(path, IDENTITY),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", None),
        ("label", None),
        ("label", "z"),
        ("probabilities", []),
        ("probabilities", {}),
        ("probabilities", {"x": "0.5"}),
        ("probabilities", {"x": float("nan")}),
        ("focused", 1),
        ("focus_score", "0.5"),
        ("warnings", "w"),
        ("warnings", [1]),
        ("error", "failed"),
    ],
)
def test_a_row_with_another_value_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    row = copy.deepcopy(ROW)
    for changed in ({**row, key: value}, {k: v for k, v in row.items() if k != key}):
        path = write(tmp_path / "j", [KEY, [changed]])
        with (
            refuses(FileError, "file.invalid_journal", "line 2") as caught,
            open_journal(path, IDENTITY),
        ):
            pass
        assert repr(key) in caught.value.problem
