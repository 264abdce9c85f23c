"""Programs that hang are killed with their children."""

import time
from pathlib import Path

import pytest

from medfocus.benchmarks.gpu.process import started, status_of


def test_a_program_has_a_status_a_log_and_variables(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "echo said $LETTER; echo meant >&2; exit 7"]
    assert status_of(command, 20, log, {"LETTER": "b"}) == 7
    assert log.read_text().split() == ["said", "b", "meant"]


def test_what_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    command = ["sh", "-c", f"(sleep 1; touch {tmp_path}/alive) & wait"]
    assert status_of(command, 0.2) is None
    assert time.monotonic() - began < 1
    time.sleep(1.3)
    assert not (tmp_path / "alive").exists()


def test_a_started_program_ends_with_the_block(tmp_path: Path) -> None:
    script = f"echo begun; (sleep 1; touch {tmp_path}/alive) & wait"

    def block() -> None:
        with started(["sh", "-c", script], tmp_path / "log"), started(["true"]):
            time.sleep(0.3)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        block()
    assert (tmp_path / "log").read_text() == "begun\n"
    time.sleep(1.3)
    assert not (tmp_path / "alive").exists()
