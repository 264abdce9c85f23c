"""Streams do their work in order, after what it is to follow, and pass errors on."""

import threading
import time

import pytest

from medfocus.engine.runtime.execution import ThreadStream


def test_work_is_done_in_order_and_after_its_event() -> None:
    first, second = ThreadStream("first"), ThreadStream("second")
    done: list[str] = []
    gate = threading.Event()
    blocked = first.submit(lambda: gate.wait(10))
    events = [
        second.submit(lambda: done.append("b"), after=first.submit(lambda: done.append("a"))),
        second.submit(lambda: done.append("c")),
    ]
    time.sleep(0.05)
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


def test_an_error_reaches_all_that_follows_and_nothing_else() -> None:
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
