"""What compute-sanitizer is given to watch, and how its output is judged."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.compare import relative_error
from medfocus.benchmarks.gpu import sanitizer as gpu_sanitizer
from medfocus.benchmarks.gpu.sanitizer import FOUND, launch, sanitize, small

KERNELS = {
    "masked_attention",
    "masked_attention_varlen",
    "cls_attention",
    "window_attention",
    "focus_bias",
    "resize",
}


def test_every_kernel_is_launched_and_right() -> None:
    comparisons = small(torch.float32, "cpu")
    assert {comparison.kernel for comparison in comparisons} == KERNELS
    for comparison in comparisons:
        ours = comparison.implementations[0]
        assert ours.name == OURS
        assert relative_error(ours.answer(ours.build()()), comparison.exact()) < 2e-6
    launch("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="launches want a GPU")
def test_all_of_them_run_as_triton() -> None:
    assert launch("cuda") == KERNELS


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A compute-sanitizer that does what the shell script says."""
    program = folder / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(gpu_sanitizer, "PROGRAM", ("sh", "-c", f"echo ran >> {folder}/order"))


def test_the_program_first_runs_unwatched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'echo "$2" >> {tmp_path}/order; echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $@"'
    stand_in(tmp_path, monkeypatch, script)
    assert list(sanitize(tmp_path, 600.0)) == []
    assert (tmp_path / "order").read_text().split() == ["ran", "memcheck", "racecheck"]
    for tool, options in (("memcheck", " --report-api-errors no"), ("racecheck", "")):
        assert (tmp_path / f"sanitizer-{tool}.log").read_text() == (
            f"1 --tool {tool}{options} --kernel-name-exclude kns=at6native"
            f" --error-exitcode {FOUND} {' '.join(gpu_sanitizer.PROGRAM)}\n"
        )


@pytest.mark.parametrize("tool", ["unwatched", "racecheck"])
def test_a_failure_is_a_problem(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, f'test "$2" != {tool} || exit {FOUND}')
    if tool == "unwatched":
        monkeypatch.setattr(gpu_sanitizer, "PROGRAM", ("sh", "-c", f"exit {FOUND}"))
    expected = f"sanitizer: {tool} ended with 99, see sanitizer-{tool}.log"
    assert list(sanitize(tmp_path, 600.0)) == [expected]


def test_its_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "")

    def status(command: Sequence[str], limit: float, log: Path, _: object) -> int | None:
        """The tools reach their limits, the program by itself does not."""
        log.touch()
        return None if "--tool" in command else 0

    monkeypatch.setattr(gpu_sanitizer, "status_of", status)
    assert [problem.split()[1:4] for problem in sanitize(tmp_path, 60.0)] == [
        ["memcheck", "stopped", "at"],
        ["racecheck", "stopped", "at"],
    ]
    assert list(sanitize(tmp_path, 0.0)) == ["sanitizer: not begun, the time was used up"]


def test_where_it_is_not_or_cannot_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert list(sanitize(tmp_path, 600.0)) == []
    assert "not run, compute-sanitizer is not installed" in capsys.readouterr().out
    monkeypatch.undo()
    stand_in(tmp_path, monkeypatch, "echo Error: Device not supported; exit 1")
    assert list(sanitize(tmp_path, 600.0)) == []
    assert "cannot watch this device" in capsys.readouterr().out
