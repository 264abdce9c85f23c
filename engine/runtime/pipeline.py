"""Images in, answers out: batches through a pool of buffers, on two streams.

    waiting ─► prepare (host threads) ─► segment (a stream) ─► classify (a stream) ─► answer

Concurrent requests are batched dynamically: what is queued when buffers become free runs as one
batch, whoever asked for it. While the streams are busy more requests gather, so batches grow with
the load, and on an idle engine a single image starts at once. The pipeline knows streams and events, and not what they run on.
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

from medfocus.engine.runtime.batch_buffers import BatchBuffers
from medfocus.engine.runtime.execution import Event, Stream, ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import is_out_of_memory
from medfocus.engine.runtime.metrics import MetricsRecorder, Span, Stats
from medfocus.engine.runtime.preprocessing_tasks import PreprocessingTasks
from medfocus.engine.runtime.request_batcher import RequestBatcher
from medfocus.engine.runtime.worker_pool import WorkerPool
from medfocus.errors import DeviceError, InputError, MedfocusError, without_traceback

MOST_BYTES = 2**30  # of decoded images, waiting and under way

_CLOSED = InputError("engine", "is closed", "load it again")
_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Run:
    """A batch under way, and the events of its stages."""

    number: int
    buffers: BatchBuffers
    requests: list[ImageRequest]
    prepared: PreprocessingTasks
    segmented: Event
    classified: Event


class Pipeline:
    """Answers requests until it is closed; safe to share between threads.

    Args:
        pool: buffers, one set per batch that can be under way.
        segment, classify: streams for the two graphs; one may serve as both.
        max_batch: most images of a batch.
        max_wait: seconds for which a batch that is not full waits for more images.
        threads: that read and prepare images.
        most_bytes: of decoded images; see `submit`.
        release: called at the end, once nothing is under way.
    """

    def __init__(
        self,
        pool: Sequence[BatchBuffers],
        segment: Stream,
        classify: Stream,
        *,
        max_batch: int,
        max_wait: float = 0.0,
        threads: int = 1,
        most_bytes: int = MOST_BYTES,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool, self._segment, self._classify = pool, segment, classify
        self._answers = ThreadStream("answers")
        self._workers = WorkerPool(threads)
        self._batcher = RequestBatcher(max_batch, max_wait, most_bytes)
        self._metrics = MetricsRecorder()
        self._buffer_bytes = sum(buffers.nbytes for buffers in pool)
        self._pool_size = len(pool)
        self._abandoned = False
        self._process = os.getpid()
        self._release = release
        self._free: SimpleQueue[BatchBuffers] = SimpleQueue()
        for buffers in pool:
            self._free.put(buffers)
        # Daemons, as the streams' threads: an engine that nobody closed must not hold the process.
        self._batches = threading.Thread(target=self._run, name="medfocus-batches", daemon=True)
        self._batches.start()
        _OPEN.add(self)

    def _run(self) -> None:
        for number in count():
            buffers = self._free.get()
            requests = self._batcher.take()
            if not requests:
                break
            self._launch(number, buffers, requests)
            del requests  # what is answered must not be kept while this waits
        for stream in (self._segment, self._classify, self._answers):
            stream.close()
        self._workers.close()
        self._release()
        self._pool, self._free = [], SimpleQueue()  # their memory goes even where we stay

    def _launch(self, number: int, buffers: BatchBuffers, requests: list[ImageRequest]) -> None:
        """The whole schedule of a batch."""
        try:
            buffers.begin(requests)
            prepared = PreprocessingTasks(self._workers, buffers, requests)
            segmented = self._segment.submit(partial(self._do, buffers.segment), after=prepared)
            classified = self._classify.submit(partial(self._do, buffers.classify), after=segmented)
        except Exception as error:
            self._leave(buffers)
            self._fail(requests, error)
        else:
            run = _Run(number, buffers, requests, prepared, segmented, classified)
            self._answers.submit(partial(self._answer, run))

    def _answer(self, run: _Run) -> None:
        try:
            run.classified.wait()
            run.segmented.wait()  # it has ended; on CUDA its times are read now
            begun = time.perf_counter()
            answers = [run.buffers.outputs(row) for row in range(len(run.requests))]
            spans = self._spans(run, begun)
        except BaseException as error:
            failure = error
        else:
            self._leave(run.buffers)
            self._metrics.add(spans)
            self._metrics.answered(spans[-1].ended - request.submitted for request in run.requests)
            for request, answer, wrong in zip(
                run.requests, answers, run.prepared.errors, strict=True
            ):
                self._batcher.settle(request, answer if wrong is None else wrong)
            return
        self._leave(run.buffers)
        self._fail(run.requests, failure)
        failure.__traceback__ = None  # which holds this frame, and so all of the batch

    def _do(self, stage: Callable[[], None]) -> None:
        if self._abandoned:
            raise without_traceback(_CLOSED)
        stage()

    def _leave(self, buffers: BatchBuffers) -> None:
        buffers.end()
        self._free.put(buffers)

    def _fail(self, requests: list[ImageRequest], error: BaseException) -> None:
        """A batch could not be run: again in halves, or its callers' error, or the end of all."""
        outcome: MedfocusError
        if is_out_of_memory(error) and len(requests) > 1:
            if self._batcher.put_back(requests):
                return
            outcome = self._batcher.failure or _CLOSED
        elif is_out_of_memory(error):
            problem = f"there is no memory to run so much as this image ({error})"
            outcome = DeviceError(
                requests[0].image.source, problem, "free some, or use another device"
            )
        elif isinstance(error, MedfocusError) and not isinstance(error, DeviceError):
            outcome = error
        else:  # a device that has failed once answers nothing more
            log.error("the backend failed", exc_info=error)
            problem = f"its backend failed ({type(error).__name__}: {error})"
            outcome = DeviceError("engine", problem, "load the engine again")
            self._batcher.stop(outcome)
        for request in requests:
            self._batcher.settle(request, outcome)

    def _spans(self, run: _Run, answering: float) -> list[Span]:
        """What a batch has taken, from its events; the last span is its answer's."""
        prepared, segmented, classified = run.prepared, run.segmented, run.classified
        stages = (
            ("segment", segmented.begun, segmented.ended, prepared.ended),
            ("classify", classified.begun, classified.ended, segmented.ended),
            ("answer", answering, time.perf_counter(), classified.ended),
        )
        spans = prepared.spans + [
            Span(stage, stage, begun, ended, begun - before, len(run.requests))
            for stage, begun, ended, before in stages
        ]
        place = self._pool.index(run.buffers)
        return [replace(span, batch=run.number, buffers=place) for span in spans]

    @property
    def failure(self) -> MedfocusError | None:
        """Why nothing more is taken: it was closed, or its backend has died."""
        return self._batcher.failure

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that has the threads."""
        return os.getpid() != self._process

    @property
    def max_batch(self) -> int:
        """Most images that run together; lower than at first after out of memory."""
        return self._batcher.max_batch

    @property
    def room(self) -> int:
        """How many images can be under way."""
        return self.max_batch * self._pool_size

    def read(self, work: Callable[..., _T], *arguments: object) -> "Future[_T]":
        """Let one of the host's threads read a source."""
        try:
            asked = time.perf_counter()
            return self._workers.submit(
                partial(self._metrics.timed, "read", asked, work, *arguments)
            )
        except RuntimeError:  # closed meanwhile
            refused: Future[_T] = Future()
            refused.set_exception(without_traceback(self.failure or _CLOSED))
            return refused

    def submit(self, requests: Sequence[ImageRequest]) -> None:
        """Let requests be answered, in one batch as far as there is room in it.

        Waits until the decoded images of all requests, these included, are at most `most_bytes`; one
        call's own are let in alone, whatever their size. Where nothing more is taken, `failure`
        is their answer.
        """
        self._batcher.put(requests)

    def stats(self) -> Stats:
        """What was done until now, and what waits."""
        waiting = self._batcher
        return self._metrics.stats(
            len(waiting), waiting.bytes, self._buffer_bytes, waiting.max_batch
        )

    def tracing(self) -> AbstractContextManager[list[Span]]:
        """A list that receives all spans until the block ends."""
        return self._metrics.tracing()

    def stop(self) -> None:
        """Take nothing more; once what is under way is answered, all threads end."""
        self._batcher.stop(_CLOSED)

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
