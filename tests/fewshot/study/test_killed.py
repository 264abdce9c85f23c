"""`medfocus-eval --grid`, killed at various stages and resumed, ends with the same results."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medfocus.fewshot.study.phantom_sets import write_set

COMMAND = "import sys; from medfocus.fewshot.eval_command import main; sys.exit(main())"
RUNS = 16
# A kill follows when so many files of a kind exist: their number, unlike the time, says where the
# study stands on any machine.
STAGES = (
    ("focus/**/*.safetensors", 3),
    ("report/splits/*.json", 2),
    ("report/runs/*.json", 1),
    ("report/runs/*.json", RUNS // 2),
    ("report/runs/*.json", RUNS - 2),
)


def study(data: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start the command in a session of its own, so that its worker processes are killed too."""
    arguments = (
        str(data), "--grid", "--adapt", "zero-shot,probe", "--focus", "none,soft", "--seeds", "1",
        "--report", str(out / "report"), "--cache", str(out / "focus"), "--device", "cpu",
    )  # fmt: skip
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def results(out: Path) -> dict[str, Any]:
    """The JSON files of a study, without durations."""
    return {
        str(file.relative_to(out)): json.loads(file.read_text(), object_hook=_without_seconds)
        for file in (out / "report").rglob("*.json")
    }


def _without_seconds(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "seconds"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_study_resumes_to_the_same_results(tmp_path: Path) -> None:
    data, whole, killed = (tmp_path / name for name in ("brain", "whole", "killed"))
    write_set(data, "brain", 8)
    whole.mkdir()
    killed.mkdir()
    assert study(data, whole).wait() == 0, (whole / "log.txt").read_text()
    delays, stopped = random.Random(5), 0
    for pattern, count in STAGES:
        process = study(data, killed)
        while process.poll() is None and len([*killed.glob(pattern)]) < count:
            time.sleep(0.002)
        time.sleep(delays.uniform(0, 0.02))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        stopped += process.wait() == -signal.SIGKILL
    assert stopped == len(STAGES), (killed / "log.txt").read_text()
    assert study(data, killed).wait() == 0, (killed / "log.txt").read_text()
    expected = results(whole)
    assert len([file for file in expected if "/runs/" in file]) == RUNS
    assert results(killed) == expected
