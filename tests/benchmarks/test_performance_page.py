"""docs/performance.md says what the recorded results say, and its pictures are there."""

import json
import re
from pathlib import Path

from medfocus.benchmarks.performance_page import RESULTS, render

ROOT = Path(__file__).parents[2]


def test_the_page_is_as_rendered() -> None:
    folder = ROOT / "benchmarks/results/cpu"
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in RESULTS}
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert page == render(results)
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) > 5
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
