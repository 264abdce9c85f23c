"""docs/performance.md says what the recorded results say, and its pictures are there."""

import json
import re
from pathlib import Path

from medfocus.benchmarks.bench.parts.models import BOTH
from medfocus.benchmarks.bench.parts.pipeline import ONE_BY_ONE, STREAM, UPSTREAM_ONE_BY_ONE, WHOLE
from medfocus.benchmarks.bench.report.rows import BenchRow, read_json
from tests.benchmarks.bench.rows import row
from tools.docs.performance_page import RESULTS, beside_pytorch, render

ROOT = Path(__file__).parents[2]


def test_the_page_is_as_rendered() -> None:
    folder = ROOT / "benchmarks/results/cpu"
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in RESULTS}
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert page == render(results)
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) > 5
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


def test_the_readme_holds_the_recorded_ratios() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    folder = ROOT / "benchmarks/results/cpu"
    found = {
        found.precision: found.ratio
        for found in read_json(folder / "base-half/models.json")
        if found.what == BOTH and found.contender == "medfocus, openvino" and found.ratio
    }
    stream = beside_pytorch(read_json(folder / "tiny/pipeline.json"))[-1]
    assert "in bf16: " in stream
    assert f" {UPSTREAM_ONE_BY_ONE}." in stream
    times = re.search(r"in bf16: (\d+\.\d)", stream)
    assert times
    for claim in (
        f"a `base` engine in bf16 answers {found['bf16'].median:.1f} times as many",
        f"in int8 {found['int8'].median:.1f} times",
        f"`Engine.stream` of a `tiny` engine in bf16 {times[1]} times",
    ):
        assert claim in text


def test_each_stream_is_set_beside_pytorch_in_its_own_run() -> None:
    def found(
        contender: str, milliseconds: float, precision: str = "fp32", batch: int = 8
    ) -> BenchRow:
        times = tuple(milliseconds * (1 + place / 100) for place in range(6))
        words = {"what": WHOLE, "contender": contender, "precision": precision}
        return row(**words, batch=batch, times_ms=times)

    rows = [
        found(f"ours, {STREAM}", 10), found(ONE_BY_ONE, 25), found(UPSTREAM_ONE_BY_ONE, 30),
        found(f"ours, {STREAM}", 20, "bf16", 32), found(ONE_BY_ONE, 25), found("another", 1),
    ]  # fmt: skip
    assert beside_pytorch(rows) == [
        f"- ours, {STREAM} in fp32: 2.50 [2.50, 2.50] times the images a second of {ONE_BY_ONE}.",
        f"- ours, {STREAM} in fp32: 3.00 [3.00, 3.00] times the images a second of"
        f" {UPSTREAM_ONE_BY_ONE}.",
        f"- ours, {STREAM} in bf16: 5.00 [5.00, 5.00] times the images a second of {ONE_BY_ONE}.",
    ]
    assert beside_pytorch([found(ONE_BY_ONE, 25)]) == []
