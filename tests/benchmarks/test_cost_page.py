"""What a million images cost, by hand."""

import json
from pathlib import Path

import pytest

from medfocus.benchmarks.cost_page import main, page, simulated
from medfocus.benchmarks.rows import write_json
from medfocus.errors import InputError
from tests.benchmarks.bench_rows import row


def test_time_and_money_by_hand(tmp_path: Path) -> None:
    """A million at 50 a second are 20,000 seconds: 5 h 33 min; at 2 a second 5 d 18 h."""
    rows = [
        row(what="both models", contender="slow", images_per_second=2.0),
        row(what="both models", images_per_second=50.0),
        row(what="segmenter", images_per_second=1e6),
        row(what="both models", setting="9 prompts", images_per_second=1e6),
        row(what="both models", status="not there", images_per_second=None),
    ]
    write_json(tmp_path / "rows.json", rows)
    assert main([str(tmp_path / "rows.json"), "--price", "3.6", "-o", str(tmp_path / "a.md")]) == 0
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert lines[-2:] == [
        "| medfocus, openvino, fp32 | both models | 8 | 50 | 5 h 33 min | 20.00 |",
        "| slow, fp32 | both models | 8 | 2 | 5 d 18 h | 500.00 |",
    ]
    assert "an x86, 2 threads" in lines[2]


def test_two_devices_cost_twice_as_much_an_hour(tmp_path: Path) -> None:
    """A million at 100 a second are 10,000 seconds: 2 h 46 min 40 s."""
    place = {"hosts": 8, "devices": 2, "slower_read": 0.1}
    found = {"elsewhere": [{"place": place, "predicted": 100.0}], "furthest_off": 0.0314}
    path = tmp_path / "simulation.json"
    path.write_text(json.dumps({**found, "engine": "openvino"}))
    text = simulated(path, 3.6)
    assert text.splitlines()[-1] == "| 8 | 2 | 100 ms | 100 | 2 h 47 min | 20.00 |"
    assert "at most 3.1% off" in text


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"elsewhere": [{"place": 1}]}', None])
def test_what_is_no_simulation_is_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "rows.json", [row(what="both models")])
    path = tmp_path / "simulation.json"
    if content is not None:
        path.write_text(content)
    out = tmp_path / "cost.md"
    arguments = ["--price", "1", "--simulation", str(path), "-o", str(out)]
    assert main([str(tmp_path / "rows.json"), *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"{path}: ")
    assert not out.exists()


def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "rows.json", [row(what="both models")])
    out = tmp_path / "nowhere" / "cost.md"
    assert main([str(tmp_path / "rows.json"), "--price", "1", "-o", str(out)]) == 2
    assert capsys.readouterr().err == f"{out}: cannot be written (No such file or directory)\n"


def test_without_a_rate_there_is_no_page() -> None:
    with pytest.raises(InputError, match="Measure models or pipeline first"):
        page([row(what="segmenter")], 1.0)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "much"])
def test_a_price_is_a_number(price: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--price", price, "-o", str(tmp_path / "cost.md")])
    assert stopped.value.code == 2
