"""A process and its children: stopped and ended together, as a fair comparison needs."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from medfocus.benchmarks.serving import family as module
from medfocus.benchmarks.serving.family import Family

# Both ignore SIGTERM, as a worker may; the parent prints the child's number once both do.
_CHILD = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)
_PARENT = f"""
import signal, subprocess, sys, time
signal.signal(15, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def members() -> Iterator[list[psutil.Process]]:
    """A parent and its child."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        found = [psutil.Process(parent.pid), psutil.Process(int(parent.stdout.readline()))]
        yield found
        for each in found:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def test_children_end_too_even_those_that_ignore_it(
    members: list[psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    Family(members[0].pid).end()
    _, alive = psutil.wait_procs(members, 30)
    assert alive == []


def test_all_are_stopped_but_while_they_are_measured(members: list[psutil.Process]) -> None:
    def become(stopped: bool) -> bool:
        for _ in range(3000):  # a signal takes effect a little later
            if all((each.status() == psutil.STATUS_STOPPED) == stopped for each in members):
                return True
            time.sleep(0.01)
        return False

    family = Family(members[0].pid)
    with family.stopped():
        assert become(stopped=True)
        with family.running():
            assert become(stopped=False)
        assert become(stopped=True)
    assert become(stopped=False)
