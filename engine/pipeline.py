"""Images in, answers out: batches through a ring of buffers, on two streams.

    waiting ─► prepare (host threads) ─► segment (a stream) ─► classify (a stream) ─► answer

Whoever waits when buffers become free goes together: one caller's batch, or several callers'
single images. While the streams are busy more gather, so batches grow with the load and a lone
image waits for nobody. The pipeline knows streams and events, and not what they run on.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import TypeVar

from medfocus.engine.fills import Fills
from medfocus.engine.host import HostThreads
from medfocus.engine.memory import is_out_of_memory
from medfocus.engine.slot import Job, Slot
from medfocus.engine.stats import Ledger, Span, Stats
from medfocus.engine.streams import Event, Stream, ThreadStream
from medfocus.engine.waiting import Waiting
from medfocus.errors import DeviceError, InputError, MedfocusError, fresh

MOST_BYTES = 2**30  # of decoded images, waiting and under way

_CLOSED = InputError("engine", "is closed", "load it again")
_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Run:
    """A batch under way, and the events of its stages."""

    number: int
    slot: Slot
    jobs: list[Job]
    filled: Fills
    segmented: Event
    classified: Event


class Pipeline:
    """Answers jobs until it is closed; safe to share between threads.

    Args:
        slots: the ring; as many batches can be under way.
        segment, classify: streams for the two graphs; one may serve as both.
        max_batch: most images of a batch.
        max_wait: seconds for which a batch that is not full waits for more images.
        threads: that read and prepare images.
        most_bytes: of decoded images; see `submit`.
        release: called at the end, once nothing is under way.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        segment: Stream,
        classify: Stream,
        *,
        max_batch: int,
        max_wait: float = 0.0,
        threads: int = 1,
        most_bytes: int = MOST_BYTES,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots, self._segment, self._classify = slots, segment, classify
        self._answers = ThreadStream("answers")
        self._host = HostThreads(threads)
        self._waiting = Waiting(max_batch, max_wait, most_bytes)
        self._ledger = Ledger()
        self._ring_bytes = sum(slot.nbytes for slot in slots)
        self._ring_size = len(slots)
        self._abandoned = False
        self._process = os.getpid()
        self._release = release
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots:
            self._free.put(slot)
        # Daemons, as the streams' threads: an engine that nobody closed must not hold the process.
        self._batches = threading.Thread(target=self._run, name="medfocus-batches", daemon=True)
        self._batches.start()
        _OPEN.add(self)

    def _run(self) -> None:
        for number in count():
            slot = self._free.get()
            jobs = self._waiting.take()
            if not jobs:
                break
            self._launch(number, slot, jobs)
            del jobs  # what is answered must not be kept while this waits
        for stream in (self._segment, self._classify, self._answers):
            stream.close()
        self._host.close()
        self._release()
        self._slots, self._free = [], SimpleQueue()  # their memory goes even where we stay

    def _launch(self, number: int, slot: Slot, jobs: list[Job]) -> None:
        """The whole schedule of a batch."""
        try:
            slot.begin(jobs)
            filled = Fills(self._host, slot, jobs)
            segmented = self._segment.submit(partial(self._do, slot.segment), after=filled)
            classified = self._classify.submit(partial(self._do, slot.classify), after=segmented)
        except Exception as error:
            self._leave(slot)
            self._fail(jobs, error)
        else:
            run = _Run(number, slot, jobs, filled, segmented, classified)
            self._answers.submit(partial(self._answer, run))

    def _answer(self, run: _Run) -> None:
        try:
            run.classified.wait()
            run.segmented.wait()  # it has ended; on CUDA its times are read now
            begun = time.perf_counter()
            answers = [run.slot.answer(row) for row in range(len(run.jobs))]
            spans = self._spans(run, begun)
        except BaseException as error:
            failure = error
        else:
            self._leave(run.slot)
            self._ledger.add(spans)
            self._ledger.answered(spans[-1].ended - job.submitted for job in run.jobs)
            for job, answer, wrong in zip(run.jobs, answers, run.filled.errors, strict=True):
                self._waiting.settle(job, answer if wrong is None else wrong)
            return
        self._leave(run.slot)
        self._fail(run.jobs, failure)
        failure.__traceback__ = None  # which holds this frame, and so all of the batch

    def _do(self, stage: Callable[[], None]) -> None:
        if self._abandoned:
            raise fresh(_CLOSED)
        stage()

    def _leave(self, slot: Slot) -> None:
        slot.end()
        self._free.put(slot)

    def _fail(self, jobs: list[Job], error: BaseException) -> None:
        """A batch could not be run: again in halves, or its callers' error, or the end of all."""
        outcome: MedfocusError
        if is_out_of_memory(error) and len(jobs) > 1:
            if self._waiting.put_back(jobs):
                return
            outcome = self._waiting.failure or _CLOSED
        elif is_out_of_memory(error):
            problem = f"there is no memory to run so much as this image ({error})"
            outcome = DeviceError(jobs[0].image.source, problem, "free some, or use another device")
        elif isinstance(error, MedfocusError) and not isinstance(error, DeviceError):
            outcome = error
        else:  # a device that has failed once answers nothing more
            log.error("the backend failed", exc_info=error)
            problem = f"its backend failed ({type(error).__name__}: {error})"
            outcome = DeviceError("engine", problem, "load the engine again")
            self._waiting.stop(outcome)
        for job in jobs:
            self._waiting.settle(job, outcome)

    def _spans(self, run: _Run, answering: float) -> list[Span]:
        """What a batch has taken, from its events; the last span is its answer's."""
        filled, segmented, classified = run.filled, run.segmented, run.classified
        stages = (
            ("segment", segmented.begun, segmented.ended, filled.ended),
            ("classify", classified.begun, classified.ended, segmented.ended),
            ("answer", answering, time.perf_counter(), classified.ended),
        )
        spans = filled.spans + [
            Span(stage, stage, begun, ended, begun - before, len(run.jobs))
            for stage, begun, ended, before in stages
        ]
        place = self._slots.index(run.slot)
        return [replace(span, batch=run.number, slot=place) for span in spans]

    @property
    def failure(self) -> MedfocusError | None:
        """Why nothing more is taken: it was closed, or its backend has died."""
        return self._waiting.failure

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that has the threads."""
        return os.getpid() != self._process

    @property
    def max_batch(self) -> int:
        """Most images that run together; lower than at first after out of memory."""
        return self._waiting.max_batch

    @property
    def room(self) -> int:
        """How many images can be under way."""
        return self.max_batch * self._ring_size

    def read(self, work: Callable[..., _T], *arguments: object) -> "Future[_T]":
        """Let one of the host's threads read a source."""
        try:
            asked = time.perf_counter()
            return self._host.submit(partial(self._ledger.timed, "read", asked, work, *arguments))
        except RuntimeError:  # closed meanwhile
            refused: Future[_T] = Future()
            refused.set_exception(fresh(self.failure or _CLOSED))
            return refused

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs be answered, in one batch as far as there is room in it.

        Waits until the decoded images of all jobs, these included, are at most `most_bytes`; one
        call's own are let in alone, whatever their size. Where nothing more is taken, `failure`
        is their answer.
        """
        self._waiting.put(jobs)

    def stats(self) -> Stats:
        """What was done until now, and what waits."""
        waiting = self._waiting
        return self._ledger.stats(len(waiting), waiting.bytes, self._ring_bytes, waiting.max_batch)

    def tracing(self) -> AbstractContextManager[list[Span]]:
        """A list that receives all spans until the block ends."""
        return self._ledger.tracing()

    def stop(self) -> None:
        """Take nothing more; once what is under way is answered, all threads end."""
        self._waiting.stop(_CLOSED)

    def close(self) -> None:
        """Stop, and wait until all threads have ended."""
        self.stop()
        self._batches.join()


_OPEN: "weakref.WeakSet[Pipeline]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Runtimes do not bear to be torn down while they compute; what has not begun is let go."""
    for pipeline in [pipeline for pipeline in _OPEN if not pipeline.forked]:
        pipeline._abandoned = True
        pipeline.close()
