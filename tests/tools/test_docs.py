"""The numbers in README.md and docs/ are those of the result files; prose is not compared."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfocus.benchmarks.bench.report.rows import write_json
from tools.docs import __main__ as command
from tools.docs import markers, results, tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of results with one file of two rows."""
    rows = [
        {"name": "a", "right": 0.958, "gain": [0.096, 0.042], "count": {"HMMA": 4}, "p": None},
        {"name": "b", "right": 0.9, "gain": [-0.01, -0.02], "count": {}, "p": 0.5},
    ]
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/x.json").write_text(json.dumps(rows))
    (tmp_path / "cpu/y.json").write_text(
        json.dumps({"best_of": {"right": 1}, "last": {"right": 2}})
    )
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results._file.cache_clear()
    yield tmp_path
    results._file.cache_clear()


def test_the_numbers_in_readme_and_docs_are_the_recorded_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = command.main(["--check"])
    assert capsys.readouterr().err == ""
    assert status == 0


def test_readme_and_performance_have_numbers_to_check() -> None:
    for page in ("README.md", "docs/performance.md", "docs/method.md"):
        assert "<!-- insert:" in (ROOT / page).read_text("utf-8")


def test_every_relative_link_and_picture_exists() -> None:
    for page in command.pages():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).is_file(), f"{page}: {target}"


def test_no_line_begins_with_a_number() -> None:
    # A comment at the start of a line ends the paragraph in Markdown.
    for page in command.pages():
        assert not re.search(r"^\s*<!-- insert: value", page.read_text("utf-8"), re.MULTILINE), page


def test_a_number_that_differs_fails_the_check_and_is_corrected(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = recorded / "README.md"
    monkeypatch.setattr(command, "ROOT", recorded)
    text = "Prose, <!-- insert: value cpu/x.json:0.right .1% -->{}<!-- end --> right.\n"
    page.write_text(text.format("91.0%"))
    assert command.main(["--check"]) == 1
    assert "README.md: differs: value cpu/x.json:0.right" in capsys.readouterr().err
    assert page.read_text() == text.format("91.0%")
    assert command.main([]) == 0
    assert page.read_text() == text.format("95.8%")
    assert command.main(["--check"]) == 0


def test_prose_is_left_as_it_is(recorded: Path) -> None:
    text = "Any <!-- a comment --> prose.\n"
    assert markers.filled(text) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "<!-- insert: unknown -->1<!-- end -->",
        "<!-- insert: value cpu/x.json:0.right -->1",
        "<!-- insert: value cpu/x.json:0.right -->1 <!-- insert: limits --> 2<!-- end -->",
    ],
)
def test_a_broken_marker_is_an_error(recorded: Path, text: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        markers.filled(text)


def test_rows_are_selected_and_formatted(recorded: Path) -> None:
    columns = ("name: `{name}`", "right: {right:.1%}", "points: {gain[0]:+.1p}", "n: {count}")
    assert tables.rows("cpu/x.json", "name=a", *columns) == (
        "| name | right | points | n |\n|---|---:|---:|---:|\n| `a` | 95.8% | +9.6 | 4 HMMA |"
    )
    assert "`b`" in tables.rows("cpu/x.json", "name~[bc]", *columns)
    assert "`a`" not in tables.rows("cpu/x.json", "name~[bc]", *columns)


def test_what_is_null_is_an_empty_cell(recorded: Path) -> None:
    assert tables.rows("cpu/x.json", "name: {name}", "p: {p:.2f}").endswith(
        "| a |  |\n| b | 0.50 |"
    )


def test_columns_are_rows_transposed(recorded: Path) -> None:
    assert tables.columns("cpu/y.json:best_of,last", ": {key}", "right: {right}") == (
        "|  | best of | last |\n|---|---:|---:|\n| right | 1 | 2 |"
    )


def test_a_pivot_has_one_column_per_value(recorded: Path) -> None:
    rows = [
        {"set": "s", "mode": mode, "amount": amount, "x": x}
        for mode, amount, x in (("soft", "5%", 1), ("soft", "10%", 2), ("hard", "5%", 3))
    ]
    (recorded / "cpu/z.json").write_text(json.dumps(rows))
    assert tables.pivot("cpu/z.json", "set=s", "set,mode", "amount", "{x}") == (
        "|  | 5% | 10% |\n|---|---:|---:|\n| s, soft | 1 | 2 |\n| s, hard | 3 |  |"
    )


def test_what_a_gpu_measured_gets_a_column(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medfocus.benchmarks.gpu.pipeline.goals import GOALS

    monkeypatch.setattr(tables, "RESULTS", recorded)
    assert tables.gpu_goals("pipeline").splitlines()[0] == "|  | goal | measured |"
    first, *_, last = GOALS
    goals = dict.fromkeys(GOALS) | {first: GOALS[first] + 0.01, last: GOALS[last] + 0.02}
    found = {"environment": {"device": "NVIDIA H200", "date": "2026-12-01 10:00"}, "goals": goals}
    (recorded / "h200").mkdir()
    (recorded / "h200/pipeline.json").write_text(json.dumps(found))
    head, _, *lines = tables.gpu_goals("pipeline").splitlines()
    assert head == "|  | goal | NVIDIA H200, 2026-12-01 |"
    assert lines[0].endswith(f"{GOALS[first] + 0.01:.3f}, met |")
    assert lines[-1].endswith(f"{GOALS[last] + 0.02:.3f}, not met |")
    assert lines[1].endswith("| not measured |")


def test_what_a_gpu_measured_of_kernels_gets_a_column(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medfocus.benchmarks.gpu.goals import GOALS
    from tests.benchmarks.gpu.test_goals import measured

    monkeypatch.setattr(tables, "RESULTS", recorded)
    _, _, *lines = tables.gpu_goals("kernels").splitlines()
    assert [line.split(" | ")[-1] for line in lines] == ["not measured |"] * len(GOALS)
    (recorded / "h200").mkdir()
    rows = [row for row in measured(efficient=1.1) if row.kernel != "hard focus"]
    write_json(recorded / "h200/gpu_check.json", rows)
    head, _, *lines = tables.gpu_goals("kernels").splitlines()
    assert head.startswith(f"|  | goal | {rows[0].environment.device}, ")
    assert lines[0].endswith("| at least 1.15 | 1.10, not met |")
    assert lines[3].endswith("| at least 1.2 | 1.25, met |")
    assert lines[-1].endswith("| at least 2 | not measured |")
