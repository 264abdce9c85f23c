"""`make gpu-check` as far as it runs without a GPU, with stand-ins for its parts."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from medfocus.benchmarks.baselines.attention import Comparison
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.gpu import check as gpu_check
from medfocus.benchmarks.gpu import kernel_part
from medfocus.benchmarks.gpu import test_run as gpu_tests
from medfocus.benchmarks.gpu.goals import GOALS as KERNEL_GOALS
from medfocus.benchmarks.gpu.pipeline.goals import GOALS
from medfocus.benchmarks.gpu.schedule import AROUND, LIMITS, PARTS, allowance, limits_of
from medfocus.benchmarks.gpu.test_run import TestOutcomes
from tests.benchmarks.bench.test_kernels import CEILINGS, ON_GPU, Clock, clock, comparison_of
from tests.benchmarks.gpu.test_goals import measured
from tests.checkout import ROOT

__all__ = ["clock"]  # a fixture
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it is about having no GPU")


def lines_of(*kernels: str) -> str:
    rows = [row for row in measured() if row.kernel in kernels]
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows)


ROWS = {"attention": ["masked_attention"], "windows": ["window_attention"]}
ROWS |= {"hard": ["hard focus"], "small": []}
REACHED = {"goals": GOALS, "problems": [], "not_reached": []}


class Rehearsal:
    """Real processes for all parts, of scripts that leave what the parts' programs would leave."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self._order = folder / "out", folder / "order"
        self.scripts = {"pipeline": self._leaves("pipeline.json", json.dumps(REACHED))}
        self.scripts["ceilings"] = self._leaves("logs/part-ceilings.jsonl", json.dumps(CEILINGS))
        for part, kernels in ROWS.items():
            file = f"logs/part-{part}.jsonl"
            self.scripts[part] = self._leaves(file, lines_of(*kernels))
        self._patch = monkeypatch.setattr
        self._patch(gpu_check, "warm_ups", lambda *_: {"pipeline": self._script("warm-up")})
        self._patch(gpu_check, "sanitize", lambda *_: self._seen("sanitizer"))
        self._patch(gpu_check, "run_tests", lambda *_: TestOutcomes(9, 0, 0, [], []))
        self._patch(gpu_check, "source_problems", lambda _: [])
        self._patch(gpu_check, "start_part", self._start(gpu_check.start_part))

    def _leaves(self, name: str, text: str) -> str:
        return f"printf %s {shlex.quote(text)} > {self.out / name}"

    def _script(self, part: str) -> list[str]:
        return ["sh", "-c", f"echo {part} >> {self._order}; {self.scripts.get(part, ':')}"]

    def _seen(self, part: str) -> list[str]:
        with self._order.open("a") as lines:
            lines.write(part + "\n")
        return []

    def _start(self, real: Callable[[str, Path, float], str | None]) -> Callable[..., str | None]:
        def start(part: str, out: Path, limit: float) -> str | None:
            # A program is called with its part's name and folder, which a shell's script ignores.
            self._patch(gpu_check, "PIPELINE_PROGRAM", self._script(part))
            self._patch(gpu_check, "KERNELS_PROGRAM", self._script(part))
            return real(part, out, limit)

        return start

    def run(self, only: Sequence[str] = (), budget: float = 600.0) -> tuple[int, list[str]]:
        """Exit status and problems."""
        self.out.mkdir(exist_ok=True)
        status = gpu_check.check(self.out, ON_GPU, only, budget)
        text = (self.out / "goals.txt").read_text()
        return status, [
            line.removeprefix("PROBLEM ") for line in text.splitlines() if "PROBLEM" in line
        ]

    @property
    def order(self) -> list[str]:
        return self._order.read_text().splitlines()


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    return Rehearsal(tmp_path, monkeypatch)


ALL = ["warm-up", "ceilings", "pipeline", *ROWS, "sanitizer"]


def test_a_run_without_a_problem_leaves_all_results_and_no_old_one(rehearsal: Rehearsal) -> None:
    old = rehearsal.out / "logs/part-of-old.jsonl"
    old.parent.mkdir(parents=True)
    for file in (old, rehearsal.out / "pipeline.json", rehearsal.out / "notes.txt"):
        file.write_text("{")
    assert rehearsal.run() == (0, [])
    assert rehearsal.order == ALL
    assert not old.exists()
    assert (rehearsal.out / "notes.txt").exists()
    assert kernel_part.read_rows(rehearsal.out) == measured()
    table = (rehearsal.out / "goals.txt").read_text()
    assert table.count("  met") == len(KERNEL_GOALS) + len(GOALS)
    header, *lines = (rehearsal.out / "gpu_check.csv").read_text().splitlines()
    assert len(lines) == len(measured())
    columns = {"error", "driver", "revision", "predicted_us", "ratio_low", "triton"}
    assert columns <= set(header.split(","))
    assert (rehearsal.out / "gpu_check.png").exists()


def test_parts_that_die_or_run_out_of_memory_stop_no_other(rehearsal: Rehearsal) -> None:
    oom = f"raise {torch.OutOfMemoryError.__module__}.OutOfMemoryError('CUDA out of memory')"
    rehearsal.scripts["warm-up"] = "exit 1"
    rehearsal.scripts["attention"] = f"{sys.executable} -c 'import torch; {oom}'"
    rehearsal.scripts["windows"] += "; kill -9 $$"  # its rows were written by then
    status, problems = rehearsal.run()
    assert (status, rehearsal.order) == (1, ALL)
    assert problems[:2] == [
        "attention: failed with exit status 1",
        "windows: failed with exit status -9",
    ]
    # Attention's goals were not measured, all others are met.
    of_attention = [goal for goal in KERNEL_GOALS if goal.part == "attention"]
    assert len(problems) == 2 + len(of_attention)
    assert all(problem.startswith("goal not measured") for problem in problems[2:])


def test_parts_that_hang_are_stopped(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = {"warm-up": "sleep 3600", "attention": "sleep 3600"}
    rehearsal.scripts |= hanging
    monkeypatch.setattr(gpu_check, "allowance", lambda part, *_: 0.4 if part in hanging else 600.0)
    status, problems = rehearsal.run()
    assert status == 1
    assert problems[0] == "attention: stopped at its time limit of 0 s"
    others = [part for part in ALL if part not in hanging]
    assert [part for part in rehearsal.order if part not in hanging] == others


@pytest.mark.parametrize("idle", [0.04, 0.06])
def test_the_pipelines_goals_decide_the_exit_status(rehearsal: Rehearsal, idle: float) -> None:
    found = REACHED | {"goals": GOALS | {"idle share of the GPU": idle}}
    rehearsal.scripts["pipeline"] = rehearsal._leaves("pipeline.json", json.dumps(found))
    _, problems = rehearsal.run()
    assert problems == (["goal not met: idle share of the GPU"] if idle > 0.05 else [])


def test_some_parts_run_with_what_they_need(rehearsal: Rehearsal) -> None:
    assert rehearsal.run(["windows"]) == (0, [])
    assert rehearsal.order == ["warm-up", "ceilings", "windows"]
    status, problems = rehearsal.run(["pipeline"], budget=1.0)  # less than what is around
    assert status == 1
    assert problems[0] == "warm-up: not begun, the time was used up"
    assert problems[1] == "pipeline: not begun, the time was used up"


def test_only_what_was_chosen_is_compiled(tmp_path: Path) -> None:
    found = gpu_check.warm_ups(tmp_path, limits_of(["windows", "checks"]))
    assert list(found) == ["checks", "windows"]
    assert set(gpu_check.warm_ups(tmp_path, limits_of())) == set(PARTS)


def test_results_have_the_devices_name() -> None:
    assert gpu_check.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


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

    parts = {"windows": [missing, small(1.0)], "attention": [small(1.0)], "hard": [small(2)]}
    monkeypatch.setattr(kernel_part, "comparisons", lambda: parts)
    assert kernel_part.warm_up("windows") == 0
    assert clock.now == pytest.approx(3e-5)
    (tmp_path / "logs").mkdir()
    assert kernel_part.run_part("windows", tmp_path, ON_GPU) == 1
    assert "ceilings were not measured" in capsys.readouterr().out
    kernel_part.result_file(tmp_path, "ceilings").write_text(json.dumps(CEILINGS))
    assert kernel_part.run_part("windows", tmp_path, ON_GPU) == 1
    assert "windows: ModuleNotFoundError: No module named 'sam2'" in capsys.readouterr().out
    assert len(kernel_part.read_rows(tmp_path)) == 4
    assert kernel_part.run_part("attention", tmp_path, ON_GPU) == 0
    assert len(kernel_part.read_rows(tmp_path)) == 8
    assert kernel_part.run_part("hard", tmp_path, ON_GPU) == 1  # ours is wrong


def test_it_starts_without_optional_packages() -> None:
    program = (
        "import sys;"
        "sys.modules.update(dict.fromkeys(['sam2', 'open_clip', 'matplotlib', 'scipy']));"
        "import medfocus.benchmarks.gpu.check, medfocus.benchmarks.gpu.kernel_part"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@no_gpu
def test_a_part_without_a_gpu_or_without_its_packages_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_check.start_part("ceilings", tmp_path, 60) == "ceilings: failed with exit status 1"
    monkeypatch.setattr(gpu_tests, "UPSTREAM", ("sam2", "nowhere_at_all"))
    problem = gpu_check.start_part("pipeline", tmp_path, 60)
    assert problem == "pipeline: not measured, nowhere_at_all not installed"


def test_every_part_has_a_limit_and_all_take_seven_minutes() -> None:
    assert list(LIMITS) == ["warm-up", "ceilings", "pipeline", *comparisons(), "checks"]
    assert AROUND + sum(LIMITS.values()) <= 7 * 60
    assert limits_of() == pytest.approx(LIMITS)
    assert list(limits_of(["pipeline"])) == ["warm-up", "pipeline"]
    short = limits_of(["windows", "checks"], 150.0)
    assert AROUND + sum(short.values()) == pytest.approx(150)
    assert short["ceilings"] == LIMITS["ceilings"]  # starting takes as long


def test_a_part_gets_its_limit_and_what_others_left() -> None:
    elapsed = 0.0
    for part, limit in LIMITS.items():  # each takes all that it may
        allowed = allowance(part, elapsed, LIMITS)
        assert allowed >= limit
        elapsed += allowed
    assert elapsed == sum(LIMITS.values())
    spared = LIMITS["warm-up"] - 50
    assert allowance("ceilings", 50.0, LIMITS) == LIMITS["ceilings"] + spared


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


@no_gpu
def test_without_a_gpu_make_measures_nothing_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text("of an earlier run, and no JSON")
    done = make("gpu-check", f"OUT={tmp_path}", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert "There is no GPU" in done.stdout
    goals = len(KERNEL_GOALS) + len(GOALS)
    assert (tmp_path / "goals.txt").read_text().count("not measured") == goals
    rows = json.loads((tmp_path / "gpu_check.json").read_text())
    assert rows[0]["status"] == "not measured: no GPU"
    assert rows[0]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("target", ["gpu-check", "gpu-smoke"])
def test_make_says_how_to_install_what_is_missing(tmp_path: Path, target: str) -> None:
    # -I and -S: neither PYTHONPATH nor installed packages.
    done = make(target, f"OUT={tmp_path / 'out'}", f"PYTHON={sys.executable} -I -S")
    assert done.returncode == 2
    assert "--no-deps --no-build-isolation --target DIR ." in done.stdout
    assert not (tmp_path / "out").exists()
