"""Streams run tasks in order and after the tasks they depend on, and propagate errors."""

import threading
import time

import pytest

from medfocus.engine.runtime.execution import ThreadStream
from tests.engine.runtime.schedules import DEADLINE


def test_tasks_run_in_order_and_after_the_event_they_depend_on() -> None:
    first, second = ThreadStream("first"), ThreadStream("second")
    done: list[str] = []
    gate = threading.Event()
    blocked = first.submit(lambda: gate.wait(DEADLINE))
    events = [
        second.submit(lambda: done.append("b"), after=first.submit(lambda: done.append("a"))),
        second.submit(lambda: done.append("c")),
    ]
    time.sleep(0.05)  # time enough to run them, if they did not wait
    assert done == []
    gate.set()
    for event in (blocked, *events):
        event.wait()
        assert 0 < event.begun <= event.ended <= time.perf_counter()
    assert done == ["a", "b", "c"]
    first.close()
    second.close()
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"medfocus-first", "medfocus-second"}


def test_an_error_reaches_dependent_tasks_and_no_others() -> None:
    stream = ThreadStream("failing")

    def fail() -> None:
        raise ValueError("broken")

    failed = stream.submit(fail)
    follows = stream.submit(lambda: pytest.fail("ran"), after=failed)
    independent = stream.submit(lambda: None)
    for event in (failed, follows):
        with pytest.raises(ValueError, match="broken"):
            event.wait()
    independent.wait()
    stream.close()
