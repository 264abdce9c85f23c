"""`medfocus-eval --grid`, killed outright at random moments, ends with what it would have found."""

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

KILLS = 5
COMMAND = "import sys; from medfocus.fewshot.eval_command import main; sys.exit(main())"


def study(data: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The command in a session of its own, so that a kill takes its processes along."""
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


def found(out: Path) -> dict[str, Any]:
    """What a study leaves, by file, without the seconds that it took."""
    return {
        str(file.relative_to(out)): json.loads(file.read_text(), object_hook=_without_seconds)
        for file in (out / "report").rglob("*.json")
    }


def _without_seconds(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "seconds"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_any_moment_it_goes_on_to_the_same_result(tmp_path: Path) -> None:
    data, whole, killed = (tmp_path / name for name in ("brain", "whole", "killed"))
    write_set(data, "brain", 8)
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    assert study(data, whole).wait() == 0, (whole / "log.txt").read_text()
    seconds = time.monotonic() - began
    moments, stopped = random.Random(5), 0
    for _ in range(KILLS):
        process = study(data, killed)
        try:
            process.wait(moments.uniform(0.2, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        stopped += process.wait() == -signal.SIGKILL
    assert stopped >= 2  # it goes on, so the later ones may come to an end
    assert study(data, killed).wait() == 0, (killed / "log.txt").read_text()
    expected = found(whole)
    assert len([file for file in expected if "/runs/" in file]) > 10
    assert found(killed) == expected
