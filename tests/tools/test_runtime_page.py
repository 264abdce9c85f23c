"""docs/runtime.md says what the recorded results say."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from medfocus.benchmarks.gpu.pipeline_goals import GOALS
from tools.docs import runtime_page
from tools.docs.runtime_page import read_results, render

ROOT = Path(__file__).parents[2]
CPU = ROOT / "benchmarks/results/cpu"


def test_the_page_is_as_rendered() -> None:
    assert (ROOT / "docs/runtime.md").read_text(encoding="utf-8") == render(read_results(CPU))


def test_what_a_gpu_measured_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("cpu", "nvidia-h200"):
        (tmp_path / folder).mkdir()
    shutil.copy(CPU / "soak.json", tmp_path / "cpu")
    (tmp_path / "cpu/pipeline.json").write_text("[]")  # of a CPU, and of another form
    values = dict.fromkeys(GOALS) | {
        "stream / segmenter alone": 0.9612,
        "idle share of the GPU": 0.0731,
    }
    environment = {"device": "NVIDIA H200", "date": "2026-12-01 10:00"}
    found = {"environment": environment, "images": 4096, "goals": values}
    (tmp_path / "nvidia-h200/pipeline.json").write_text(json.dumps(found))
    command = ["runtime_page", str(tmp_path / "cpu"), "-o", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", command)
    runtime_page.main()
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "|  | goal | NVIDIA H200 |" in page
    assert "NVIDIA H200: 2026-12-01, 4,096 images a round." in page
    assert "| stream / segmenter alone | at least 0.95 | 0.961, met |" in page
    assert "| idle share of the GPU | at most 0.05 | 0.073, not met |" in page
    assert "| stream / arithmetic floor | at least 0.4 | not measured |" in page
    assert "Nothing here has run on a GPU" not in page
    assert "## Not measured\n\ntorch.compile between the kernels is not used" in page
