"""Programs that hang are killed with their children."""

from pathlib import Path

import pytest

from medfocus.benchmarks.gpu.process import started, status_of
from tests.waiting import runs, wait_until


def test_a_program_has_a_status_a_log_and_variables(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "echo said $LETTER; echo meant >&2; exit 7"]
    assert status_of(command, 20, log, {"LETTER": "b"}) == 7
    assert log.read_text().split() == ["said", "b", "meant"]


def test_what_hangs_is_killed() -> None:
    assert status_of(["sleep", "3600"], 0.2) is None


def test_a_started_program_ends_with_the_block_and_so_does_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"echo begun; sleep 3600 & echo $! > {child}.part; mv {child}.part {child}; wait"

    def block() -> None:
        with started(["sh", "-c", script], tmp_path / "log"), started(["true"]):
            wait_until(child.exists)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        block()
    assert (tmp_path / "log").read_text() == "begun\n"
    wait_until(lambda: not runs(int(child.read_text())))
