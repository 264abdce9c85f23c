"""docs/export.md says what the recorded results say, and the code's own limits and policy."""

import json
from pathlib import Path

from tools.docs.export_page import RESULTS, render

ROOT = Path(__file__).parents[2]


def test_the_page_is_as_rendered() -> None:
    folder = ROOT / "benchmarks/results/cpu"
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in RESULTS}
    assert (ROOT / "docs/export.md").read_text(encoding="utf-8") == render(results)
