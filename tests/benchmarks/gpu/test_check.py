"""`make gpu-check` as far as it runs without a GPU, with stand-ins for its parts."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from medfocus.benchmarks.baselines.attention import Comparison
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.gpu import check as gpu_check
from medfocus.benchmarks.gpu import test_run as gpu_tests
from medfocus.benchmarks.gpu.pipeline_goals import GOALS
from medfocus.benchmarks.gpu.test_run import TestOutcomes, run_tests
from tests.benchmarks.bench.test_kernels import CEILINGS, ON_GPU, Clock, clock, comparison_of
from tests.benchmarks.gpu.test_goals import measured
from tests.checkout import ROOT

__all__ = ["clock"]  # a fixture
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it is about having no GPU")


class PartRuns:
    """In place of the processes of all parts; some leave a file, all others fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.begun: list[str] = []
        self.leaves: dict[str, tuple[str, str]] = {}
        monkeypatch.setattr(gpu_check, "start_part", self.start)
        monkeypatch.setattr(gpu_check, "run_tests", lambda *_: run_tests(tmp_path, tmp_path, 1))
        monkeypatch.setattr(gpu_check, "warm_ups", lambda _: {})
        monkeypatch.setattr(gpu_check, "sanitize", lambda *_: [])

    def start(self, part: str, out: Path, limit: float) -> str | None:
        self.begun.append(part)
        if part not in self.leaves:
            return f"{part}: failed"
        name, text = self.leaves[part]
        (out / name).write_text(text)
        return None


def lines_of(kernel: str | None = None) -> str:
    rows = [row for row in measured() if kernel in (None, row.kernel)]
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PartRuns:
    return PartRuns(monkeypatch, tmp_path)


def test_a_part_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: PartRuns
) -> None:
    old = ["part-ceilings.jsonl", "pipeline.json", "tests.log"]
    for name in (*old, "notes.txt"):
        (tmp_path / name).write_text("{}")
    parts.leaves["windows"] = ("part-windows.jsonl", lines_of("window_attention"))
    assert gpu_check.check(tmp_path, ON_GPU) == 1
    assert parts.begun == [gpu_check.PIPELINE, gpu_check.CEILINGS, *comparisons()]
    printed = capsys.readouterr().out
    assert "PROBLEM attention: failed" in printed
    assert "PROBLEM tests:" in printed
    assert printed.count("PROBLEM goal not measured:") == 5
    assert "PROBLEM pipeline: failed" in (tmp_path / "goals.txt").read_text()
    assert len(json.loads((tmp_path / "gpu_check.json").read_text())) == 4
    header, *lines = (tmp_path / "gpu_check.csv").read_text().splitlines()
    assert len(lines) == 4
    columns = {"error", "driver", "revision", "predicted_us", "ratio_low", "triton"}
    assert columns <= set(header.split(","))
    assert (tmp_path / "gpu_check.png").exists()
    # Nothing of an earlier run is left to be taken for this one's.
    assert not [name for name in old if (tmp_path / name).exists()]
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("idle", [0.04, 0.06])
def test_the_pipelines_goals_are_in_the_table_and_in_the_exit_status(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    parts: PartRuns,
    idle: float,
) -> None:
    values = GOALS | {"idle share of the GPU": idle}
    left = {"goals": values, "problems": [], "not_reached": []}
    parts.leaves = dict.fromkeys(gpu_check.LIMITS, ("part-attention.jsonl", ""))
    parts.leaves["pipeline"] = ("pipeline.json", json.dumps(left))
    parts.leaves["small kernels"] = ("part-small-kernels.jsonl", lines_of())
    fine = TestOutcomes(9, 0, 0, [], [])
    monkeypatch.setattr(gpu_check, "run_tests", lambda *_: fine)
    monkeypatch.setattr(gpu_check, "source_problems", lambda _: [])
    assert gpu_check.check(tmp_path, ON_GPU) == (idle > 0.05)
    printed = capsys.readouterr().out
    assert ("PROBLEM goal not met: idle share of the GPU" in printed) == (idle > 0.05)
    assert printed.count("  met") == 6 + len(GOALS) - (idle > 0.05)
    assert "  0.950  met" in (tmp_path / "goals.txt").read_text()
    assert gpu_check.read_rows(tmp_path) == measured()


def test_a_comparison_that_cannot_be_made_stops_no_other(
    tmp_path: Path,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Comparison:
        raise ModuleNotFoundError("No module named 'sam2'")

    def small(ours: float) -> Callable[[], Comparison]:
        both = clock.implementation(OURS, 1e-5, ours), clock.implementation("other", 2e-5)
        return lambda: comparison_of(*both)

    parts = {"windows": [missing, small(1.0)], "attention": [small(1.0)], "hard focus": [small(2)]}
    monkeypatch.setattr(gpu_check, "comparisons", lambda: parts)
    assert gpu_check.run_part("windows", tmp_path, ON_GPU) == 1
    assert "ceilings were not measured" in capsys.readouterr().out
    gpu_check.result_file(tmp_path, "ceilings").write_text(json.dumps(CEILINGS))
    assert gpu_check.run_part("windows", tmp_path, ON_GPU) == 1
    assert "windows: ModuleNotFoundError: No module named 'sam2'" in capsys.readouterr().out
    assert len(gpu_check.read_rows(tmp_path)) == 4
    assert gpu_check.run_part("attention", tmp_path, ON_GPU) == 0
    assert len(gpu_check.read_rows(tmp_path)) == 8
    assert gpu_check.run_part("hard focus", tmp_path, ON_GPU) == 1  # ours is wrong


def test_it_starts_without_optional_packages() -> None:
    program = (
        "import sys;"
        "sys.modules.update(dict.fromkeys(['sam2', 'open_clip', 'matplotlib', 'scipy']));"
        "import medfocus.benchmarks.gpu.check"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@no_gpu
def test_a_parts_process_that_fails_or_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [gpu_check.start_part("ceilings", tmp_path, limit) for limit in (60, 0.2, -1.0)]
    assert found == [
        "ceilings: failed with exit status 1",
        "ceilings: stopped at its time limit of 0 s",
        "ceilings: not begun, the time was used up",
    ]
    monkeypatch.setattr(gpu_tests, "UPSTREAM", ("sam2", "nowhere_at_all"))
    found = [gpu_check.start_part("pipeline", tmp_path, 60)]
    assert found == ["pipeline: not measured, nowhere_at_all not installed"]


def test_every_part_has_a_limit_and_all_fit_the_budget() -> None:
    kernels = list(comparisons())
    named = [gpu_check.TESTS, gpu_check.PIPELINE, gpu_check.CEILINGS, *kernels]
    assert list(gpu_check.LIMITS) == [*named, gpu_check.SANITIZER]
    assert gpu_check.AROUND + sum(gpu_check.LIMITS.values()) <= gpu_check.BUDGET
    assert gpu_check.BUDGET <= 9 * 60
    assert gpu_check.LIMITS[gpu_check.PIPELINE] == max(gpu_check.LIMITS.values())


def test_a_part_gets_its_limit_and_what_others_left() -> None:
    elapsed = 0.0
    for part, limit in gpu_check.LIMITS.items():  # each takes all that it may
        allowed = gpu_check.allowance(part, elapsed)
        assert allowed >= limit
        elapsed += allowed
    assert elapsed <= gpu_check.BUDGET - gpu_check.AROUND
    spared = gpu_check.LIMITS["tests"] - 50
    assert gpu_check.allowance("pipeline", 50.0) >= gpu_check.LIMITS["pipeline"] + spared


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "gpu-check", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@no_gpu
def test_without_a_gpu_make_measures_nothing_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text("of an earlier run, and no JSON")
    done = make(f"OUT={tmp_path}", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert "There is no GPU" in done.stdout
    assert (tmp_path / "goals.txt").read_text().count("not measured") == 6 + len(GOALS)
    rows = json.loads((tmp_path / "gpu_check.json").read_text())
    assert rows[0]["status"] == "not measured: no GPU"
    assert rows[0]["versions"]["torch"] == torch.__version__


def test_make_says_how_to_install_what_is_missing(tmp_path: Path) -> None:
    # -I and -S: neither PYTHONPATH nor installed packages.
    done = make(f"OUT={tmp_path / 'out'}", f"PYTHON={sys.executable} -I -S")
    assert done.returncode == 2
    assert "--no-deps --no-build-isolation --target DIR ." in done.stdout
    assert not (tmp_path / "out").exists()
