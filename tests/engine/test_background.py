"""Calls in the background: what is cancelled gives everything back, all others are answered."""

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.background import BackgroundCall
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.reading.open_file import OpenFile, Reading
from medfocus.engine.runtime.image_request import MASKS_ONLY
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, answer_in_steps
from medfocus.engine.runtime.worker_pool import WorkerPool
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

    return BackgroundCall(steps(), subject.callers)


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
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=8, threads=1)
    calls = [call(subject, list(prompted([0]))) for _ in range(65)]
    script.wait_for_batches(1)
    first = len(script.batches[0])
    wait_until(lambda: subject.stats().waiting == 65 - first)
    gate.set()
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
    calls = [call(subject, list(prompted([0, 1, 2]))) for _ in range(4)]
    script.wait_for_batches(1)
    subject.stop()
    gate.set()
    in_time(subject.close)
    for each in calls:
        errors = [item.future.exception() for item in each.result(DEADLINE)]
        assert {getattr(error, "code", None) for error in errors} <= {None, "engine.closed"}


def test_a_call_that_is_cancelled_while_it_runs_ends_at_its_next_wait() -> None:
    workers, running, go_on, ended = WorkerPool(1), *(threading.Event() for _ in range(3))

    def steps() -> Generator[Future[Any], None, None]:
        try:
            running.set()
            assert go_on.wait(DEADLINE)
            yield Future()
        finally:
            ended.set()

    subject = BackgroundCall(steps(), workers)
    assert running.wait(DEADLINE)
    assert subject.cancel()  # at once
    assert subject.cancel()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(DEADLINE)
    in_time(workers.close)


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


def test_what_was_submitted_is_finished_at_exit() -> None:
    program = """
import threading, time
from concurrent.futures import Future
from medfocus.engine.background import BackgroundCall
from medfocus.engine.runtime.worker_pool import WorkerPool
awaited = Future()
def steps():
    yield awaited
    print("finished", flush=True)
def later():
    time.sleep(0.5)
    awaited.set_result(None)
threading.Thread(target=later, daemon=True).start()
BackgroundCall(steps(), WorkerPool(1))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True
    )
    assert found.stdout == "finished\n"
