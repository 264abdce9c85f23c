"""`medfocus-bench` reads what it wrote; tables, CSV and pictures show the same figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from medfocus.benchmarks.bench.report.plots import PICTURES, draw
from medfocus.benchmarks.bench.report.rows import read_json, write_csv, write_json
from medfocus.benchmarks.bench.report.table import bench_table, missing_lines
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import FileError
from tests.benchmarks.bench.rows import ROW, row
from tests.checkout import ROOT
from tests.errors import refuses

MISSING = row(
    implementation="transformers",
    status="not installed",
    images_per_second=None,
    p50_ms=None,
    p95_ms=None,
    ratio=None,
    noise=None,
    ratios={},
)


def test_rows_come_back(tmp_path: Path) -> None:
    rounded = row(p50_ms=160.123456, ratio=Ratio(2.00006, 1.9, 2.1))
    write_json(tmp_path / "rows.json", [ROW, MISSING, rounded])
    expected = row(p50_ms=160.1, ratio=Ratio(2.0, 1.9, 2.1))
    assert read_json(tmp_path / "rows.json") == [ROW, MISSING, expected]
    listed = json.loads((tmp_path / "rows.json").read_text())
    assert listed[0]["environment"]["versions"]["torch"] == "2.11"
    assert listed[1]["status"] == "not installed"


def test_rows_of_older_versions_are_read() -> None:
    """Recorded results are of version 0.1."""
    rows = read_json(ROOT / "benchmarks/results/cpu/base-half/models.json")
    ours = [each for each in rows if each.implementation.startswith("medfocus")]
    assert any(each.baseline == "sam2 + open_clip, fp32" and each.ratio for each in ours)


@pytest.mark.parametrize("text", ["[{}]", "[1]", "{", '{"rows": []}', "null", '[{"part": "x"}]'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text)
    with refuses(FileError, "bench.no_rows", "rows.json"):
        read_json(tmp_path / "rows.json")


def test_a_csv_has_a_line_per_row(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [MISSING, ROW])
    with (tmp_path / "rows.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["status"] == "not installed"
    assert first["ratio"] == ""
    assert second["ratio_low"] == "1.95"
    assert second["noise_high"] == "1.01"
    assert second["ratio to autocast, bf16"] == "1.5"
    assert (second["processor"], second["torch"]) == ("an x86", "2.11")


def test_a_table_has_all_figures() -> None:
    console = Console(width=160, record=True, color_system=None)
    shown = [ROW, MISSING, row(what="segmenter", setting="P 4", images_per_second=1234.5)]
    console.print(bench_table(shown))
    text = console.export_text()
    [ours] = [line for line in text.splitlines() if "openvino" in line and "classifier" in line]
    figures = ["fp32", "50.0", "160", "171", "800", "40%", "cosine 1.0000"]
    for cell in (*figures, "2.00 [1.95, 2.05]", "1.50 [1.45, 1.55]"):
        assert cell in ours
    assert "transformers" not in text
    (missing,) = missing_lines(shown)
    assert missing == "models, classifier, transformers, fp32, batch 8: not installed"
    assert "segmenter, P 4" in text
    assert "1,234" in text
    noisy = [row(noise=Ratio(1.1, 1.05, 1.2)), row(noise=Ratio(0.9, 0.8, 0.99))]
    assert [each.too_noisy for each in (*noisy, ROW)] == [True, True, False]
    assert "an x86, 2 threads, abc+" in text


def test_what_was_measured_is_drawn(tmp_path: Path) -> None:
    rows = [
        row(what="both models"),
        row(what="both models", implementation="sam2 + open_clip", ratio=None, accuracy=0.99),
        row(part="scaling", what="both models", batch=1),
        row(part="scaling", what="both models", batch=8),
        row(part="scaling", what="Engine.classify", setting="4 callers", times_ms=(1.0, 3.0, 2.0)),
    ]
    files = draw(rows, tmp_path)
    assert {file.stem for file in files} == {"models", "front", "batches", "latency"}
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 200
    assert draw([row(part="startup"), row(status="missing")], tmp_path) == []


@pytest.mark.parametrize("name", ["models", "batches"])
def test_bars_and_points_are_at_their_rates(name: str) -> None:
    part = "scaling" if name == "batches" else "models"
    sizes = {1: 10.0, 4: 40.0}
    rows = [
        row(part=part, what="both models", batch=size, images_per_second=rate)
        for size, rate in sizes.items()
    ]
    (picture,) = (picture for found, _, picture in PICTURES if found == name)
    figure = picture(rows)
    if name == "batches":
        (line,) = figure.axes[0].lines
        assert dict(np.asarray(line.get_xydata()).tolist()) == sizes
    else:
        assert [
            axis.patches[0].get_width()  # type: ignore[attr-defined]
            for axis in figure.axes
        ] == [10, 40]
