"""Calls in the background: what is cancelled gives everything back, all others are answered."""

import asyncio
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.background import BackgroundCall, BackgroundCalls
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.reading.open_file import OpenFile, Reading
from medfocus.engine.runtime.image_request import MASKS_ONLY
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, answer_in_steps
from tests.engine.runtime.schedules import (
    DEADLINE,
    MISSING,
    PROMPTS,
    UNFIT,
    Script,
    check,
    in_time,
    picture,
    pipeline,
    prompted,
)
from tests.waiting import wait_until


def call(
    subject: Pipeline, sources: list[PromptedSource], read_ahead: int = 16
) -> BackgroundCall[list[PendingPrediction]]:
    """As `Engine.submit`, for what the scripted graphs compute."""

    def steps() -> Generator[Future[Any], None, list[PendingPrediction]]:
        found = []
        for item in answer_in_steps(
            subject, sources, PROMPTS, read_ahead, len(sources), MASKS_ONLY
        ):
            if isinstance(item, Future):
                yield item
            else:
                found.append(item)
        return found

    return subject.calls.submit(steps())


def gated() -> tuple[threading.Event, Script]:
    """A script whose graphs run only once the event is set."""
    gate = threading.Event()

    def wait(stage: str, values: list[int]) -> None:
        assert gate.wait(DEADLINE)

    return gate, Script(fails=wait)


def given_back(subject: Pipeline, held: int = 0) -> Callable[[], bool]:
    """Whether nothing is queued or announced, and only `held` bytes are."""

    def holds() -> bool:
        stats = subject.stats()
        announced = subject._batcher._announced
        return (stats.waiting, stats.waiting_bytes, announced) == (0, held, 0)

    return holds


def test_what_is_cancelled_is_dropped_while_its_first_batch_runs() -> None:
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=2)
    cancelled = call(subject, list(prompted([0, 1, 2, 3, 5, 6, 7])))
    script.wait_for_batches(1)
    under_way = len(script.batches[0])
    wait_until(lambda: subject.stats().waiting == 7 - under_way)
    assert cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    wait_until(given_back(subject, 3 * under_way))  # three bytes each, and the gate is closed
    other = call(subject, list(prompted([8])))
    gate.set()
    (found,) = other.result(DEADLINE)
    check(found, 8)
    assert script.batches[1:] == [[8]]
    in_time(subject.close)
    assert given_back(subject)()


class GatedReader:
    """In place of the processes that read: one read goes on until the gate opens."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Semaphore(0)
        self.count = 0

    def read(self, file: OpenFile, index: int, admit: Callable[[int], None]) -> Reading:
        self.count += 1
        admit(3)
        self.begun.release()
        assert self.gate.wait(DEADLINE)
        return Reading(1, Frame(picture(1)))

    def stop(self) -> None:
        pass

    close = stop


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_reads_that_have_not_begun_do_not_begin_and_files_are_closed() -> None:
    subject = pipeline(Script(), threads=1)
    subject.reader = reader = GatedReader()  # type: ignore[assignment]
    before = descriptors()
    cancelled = call(subject, [PromptedSource(b"file") for _ in range(6)])
    assert reader.begun.acquire(timeout=DEADLINE)
    wait_until(lambda: descriptors() >= before + 6)
    assert cancelled.cancel()
    wait_until(lambda: descriptors() <= before + 1)  # that of the read that goes on
    assert cancelled.cancelled()
    reader.gate.set()
    wait_until(given_back(subject))
    wait_until(lambda: descriptors() <= before)
    assert reader.count == 1
    in_time(subject.close)


def test_images_of_more_callers_than_threads_fill_their_batches() -> None:
    def slowly(stage: str, values: list[int]) -> None:
        """Graphs take longer than the steps of the calls, which fill the next batch meanwhile."""
        begun = sum(map(len, script.batches))
        wait_until(lambda: subject.stats().waiting >= min(8, 65 - begun))

    script = Script(fails=slowly)
    subject = pipeline(script, batches=1, max_batch=8, threads=1)
    calls = [call(subject, list(prompted([0]))) for _ in range(65)]
    for each in calls:
        (found,) = each.result(DEADLINE)
        check(found, 0)
    assert [len(batch) for batch in script.batches[1:-1]] == [8] * len(script.batches[1:-1])
    in_time(subject.close)


@pytest.mark.parametrize("seed", range(8))
def test_any_mixture_of_cancelled_and_answered_calls(seed: int) -> None:
    drawn = random.Random(seed)
    subject = pipeline(
        Script(seed), max_batch=drawn.choice((1, 4)), most_bytes=drawn.choice((9, 99))
    )
    values = [[drawn.randrange(20) for _ in range(drawn.randrange(1, 9))] for _ in range(40)]
    calls = []
    for each in values:
        calls.append(call(subject, list(prompted(each)), drawn.choice((1, 16))))
        time.sleep(drawn.choice((0, 0, 1e-3)))
        if drawn.random() < 0.5:
            drawn.choice(calls[-4:]).cancel()
    for one, expected in zip(calls, values, strict=True):
        if not one.cancelled():
            found = one.result(DEADLINE)
            assert [item.number for item in found] == list(range(len(expected)))
            for item, value in zip(found, expected, strict=True):
                check(item, value)
    assert {UNFIT, MISSING} <= {value for each in values for value in each}
    wait_until(given_back(subject))
    in_time(subject.close)


def test_closing_the_pipeline_ends_every_call() -> None:
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=1)
    calls = [call(subject, list(prompted([0, 1, 2]))) for _ in range(40)]  # most have not begun
    script.wait_for_batches(1)
    subject.stop()
    gate.set()
    in_time(subject.close)
    for each in calls:
        errors = [item.future.exception() for item in each.result(DEADLINE)]
        assert {getattr(error, "code", None) for error in errors} <= {None, "engine.closed"}


def test_a_call_that_is_cancelled_while_it_runs_ends_at_its_next_wait() -> None:
    running, go_on, ended = (threading.Event() for _ in range(3))

    def steps() -> Generator[Future[Any], None, None]:
        try:
            running.set()
            assert go_on.wait(DEADLINE)
            yield Future()
        finally:
            ended.set()

    calls = BackgroundCalls(1, most=1)
    subject = calls.submit(steps())
    assert running.wait(DEADLINE)
    assert subject.cancel()  # at once
    assert subject.cancel()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(DEADLINE)
    in_time(calls.finish)
    calls.close()


def test_a_task_that_is_cancelled_cancels_the_engines_work(engine_directory: Path) -> None:
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=1)
    engine = Engine(read_engine_directory(engine_directory).manifest, None, subject)  # type: ignore[arg-type]

    async def cancel() -> None:
        images = [np.zeros((1, 1, 3), np.uint8)] * 3
        task = asyncio.ensure_future(engine.aclassify(images))
        await asyncio.to_thread(wait_until, lambda: subject.stats().waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    wait_until(given_back(subject, 3))
    gate.set()
    in_time(engine.close)
    assert script.batches == [[0]]


def test_what_was_submitted_is_finished_at_exit(engine_directory: Path) -> None:
    program = """
import os, sys
import numpy as np
from medfocus.engine import Engine
engine = Engine.load(sys.argv[1], verify=False)
for _ in range(40):
    future = engine.submit(np.zeros((8, 8, 3), np.uint8))
    future.add_done_callback(lambda done: os.write(1, f"{done.result()[0].error}\\n".encode()))
"""
    found = subprocess.run(
        [sys.executable, "-c", program, engine_directory],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert found.stdout.split() == ["None"] * 40


@pytest.mark.parametrize("sources", [1, 40])
def test_open_files_are_bounded_over_all_calls(sources: int) -> None:
    width = 4 + 16  # of one call: those under way, and those read ahead
    subject = pipeline(Script(), batches=1, max_batch=4, threads=1)
    subject.reader = reader = GatedReader()  # type: ignore[assignment]
    before = descriptors()
    calls = [call(subject, [PromptedSource(b"file")] * sources) for _ in range(60)]
    assert reader.begun.acquire(timeout=DEADLINE)
    most = 4 + 4 + 1  # calls: those under way, the next batch, and one per thread
    wait_until(lambda: subject.calls.begun == most)
    wait_until(lambda: descriptors() >= before + most)
    shares = sum(math.ceil(width / begun) for begun in range(1, most + 1))
    assert descriptors() <= before + (most if sources == 1 else shares)
    assert calls[-1].cancel()  # it has not begun
    reader.gate.set()
    for each in calls[:-1]:
        found = each.result(DEADLINE)
        assert [item.number for item in found] == list(range(sources))
        for item in found:
            check(item, 1)
    assert reader.count == 59 * sources
    in_time(subject.close)
    assert descriptors() <= before


def test_a_call_that_waits_while_the_pool_closes_is_answered() -> None:
    awaited: Future[int] = Future()
    begun = threading.Event()

    def steps() -> Generator[Future[int], None, int]:
        begun.set()
        yield awaited
        return awaited.result()

    calls = BackgroundCalls(1, most=1)
    first, second = calls.submit(steps()), calls.submit(steps())
    assert begun.wait(DEADLINE)
    calls.close()
    for thread in calls._workers._threads:
        thread.join(DEADLINE)
    awaited.set_result(1)
    assert [first.result(DEADLINE), second.result(DEADLINE)] == [1, 1]
    in_time(calls.finish)
    with pytest.raises(RuntimeError):
        calls.submit(steps())


def test_a_call_whose_cleaning_up_raises_is_cancelled_all_the_same() -> None:
    begun = threading.Event()

    def steps() -> Generator[Future[Any], None, None]:
        try:
            begun.set()
            yield Future()
        finally:
            raise OSError

    calls = BackgroundCalls(1, most=1)
    subject = calls.submit(steps())
    assert begun.wait(DEADLINE)
    with suppress(OSError):  # which its worker has if it was still running
        subject.cancel()
    in_time(calls.finish)
    assert subject.cancelled()
