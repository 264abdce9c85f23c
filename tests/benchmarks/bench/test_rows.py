"""What `medfocus-bench` writes, it reads again; tables and CSV hold the same figures."""

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from medfocus.benchmarks.bench.report.rows import read_json, write_csv, write_json
from medfocus.benchmarks.bench.report.table import bench_table, missing_lines
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import InputError
from tests.benchmarks.bench.rows import ROW, row

MISSING = row(
    contender="transformers",
    status="not installed",
    images_per_second=None,
    p50_ms=None,
    p95_ms=None,
    ratio=None,
    noise=None,
)


def test_rows_come_back(tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", [ROW, MISSING])
    assert read_json(tmp_path / "rows.json") == [ROW, MISSING]
    listed = json.loads((tmp_path / "rows.json").read_text())
    assert listed[0]["environment"]["versions"]["torch"] == "2.11"
    assert listed[1]["status"] == "not installed"


def test_figures_are_rounded_to_what_they_are_worth(tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", [row(p50_ms=160.123456, ratio=Ratio(2.00006, 1.9, 2.1))])
    found = read_json(tmp_path / "rows.json")[0]
    assert found.p50_ms == 160.1
    assert found.ratio == Ratio(2.0, 1.9, 2.1)


@pytest.mark.parametrize("text", ["[{}]", "[1]", "{", '{"rows": []}', "null", '[{"part": "x"}]'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InputError, match=r"rows\.json.*no rows of medfocus-bench"):
        read_json(tmp_path / "rows.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_a_csv_has_a_line_a_row(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [MISSING, ROW])
    with (tmp_path / "rows.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["status"] == "not installed"
    assert first["ratio"] == ""
    assert second["ratio_low"] == "1.95"
    assert second["noise_high"] == "1.01"
    assert (second["processor"], second["torch"]) == ("an x86", "2.11")


def test_noise_is_judged_by_its_interval() -> None:
    assert not ROW.too_noisy
    assert row(noise=Ratio(1.1, 1.05, 1.2)).too_noisy
    assert row(noise=Ratio(0.9, 0.8, 0.99)).too_noisy


def test_a_table_is_read_at_a_glance() -> None:
    console = Console(width=130, record=True, color_system=None)
    shown = [ROW, MISSING, row(what="segmenter", setting="P 4", images_per_second=1234.5)]
    console.print(bench_table(shown))
    text = console.export_text()
    lines = text.splitlines()
    [ours] = [line for line in lines if "openvino" in line and "classifier" in line]
    for cell in (
        "fp32",
        "50.0",
        "160",
        "171",
        "800",
        "40%",
        "cosine 1.0000",
        "2.00 [1.95, 2.05]",
    ):
        assert cell in ours
    assert "transformers" not in text
    assert missing_lines(shown) == [
        "models, classifier, transformers, fp32, batch 8: not installed"
    ]
    assert "segmenter, P 4" in text
    assert "1,234" in text
    assert "an x86, 2 threads, abc+" in text
