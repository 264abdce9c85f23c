"""Rows as pictures: which are drawn, and that what is shown is what was measured."""

from pathlib import Path

import pytest
from PIL import Image

from medfocus.benchmarks.bench.report.plots import PICTURES, draw
from tests.benchmarks.bench.rows import row


def test_what_was_measured_is_drawn(tmp_path: Path) -> None:
    rows = [
        row(what="both models"),
        row(what="both models", contender="sam2 + open_clip", ratio=None, accuracy=0.99),
        row(part="scaling", what="both models", batch=1),
        row(part="scaling", what="both models", batch=8),
        row(part="scaling", what="Engine.classify", setting="4 callers", times_ms=(1.0, 3.0, 2.0)),
    ]
    files = draw(rows, tmp_path)
    assert {file.stem for file in files} == {"models", "front", "batches", "latency"}
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 200
    assert draw([row(part="startup"), row(status="not there")], tmp_path) == []


@pytest.mark.parametrize("name", ["models", "batches"])
def test_a_bar_or_a_point_stands_at_its_rate(name: str) -> None:
    part = "scaling" if name == "batches" else "models"
    rows = [
        row(part=part, what="both models", batch=size, images_per_second=10.0 * size)
        for size in (1, 4)
    ]
    (picture,) = (picture for found, _, picture in PICTURES if found == name)
    figure = picture(rows)
    if name == "batches":
        (line,) = figure.axes[0].lines
        assert line.get_xydata().tolist() == [[1, 10], [4, 40]]
    else:
        widths = [axis.patches[0].get_width() for axis in figure.axes]
        assert widths == [10, 40]
