"""docs/kernels.md says what the recorded results say."""

import json
from pathlib import Path

from tools.docs.kernels_page import render

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/compiled"


def test_the_page_is_as_rendered() -> None:
    report, waste = (
        json.loads((RESULTS / name).read_text()) for name in ("report.json", "tile_waste.json")
    )
    assert (ROOT / "docs/kernels.md").read_text() == render(report, waste)
