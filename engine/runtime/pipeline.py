"""Images in, predictions out: batches go through a pool of buffers, on two streams.

    queue ─► prepare (worker pool) ─► segment (stream) ─► classify (stream) ─► answer (thread)

Concurrent requests are batched dynamically: the requests that are queued when buffers become free
run as one batch, whichever callers they came from. While the streams are busy more requests
queue, so batches grow with the load; on an idle engine a single image starts at once. The
pipeline knows streams and events, not the devices behind them.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import TypeVar

from medfocus.engine.background import BackgroundCalls
from medfocus.engine.io.reading.byte_budget import ByteBudget
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.runtime.batch_buffers import BatchBuffers
from medfocus.engine.runtime.execution import Event, Stream, ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import is_out_of_memory
from medfocus.engine.runtime.metrics import MetricsRecorder, Observer, Span, Stats
from medfocus.engine.runtime.preprocessing_tasks import PreprocessingTasks
from medfocus.engine.runtime.request_batcher import RequestBatcher
from medfocus.engine.worker_pool import WorkerPool
from medfocus.errors import DeviceError, InputError, MedfocusError, without_traceback

MOST_BYTES = 3 * 2**28  # of decoded images: being decoded, queued and under way

CLOSED = InputError("engine", "is closed", "load it again", code="engine.closed")
_BROKEN = DeviceError("engine", "failed while it handled a failure", "load the engine again")
_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch under way, and the events of its stages."""

    number: int
    buffers: BatchBuffers
    requests: list[ImageRequest]
    prepared: PreprocessingTasks
    segmented: Event
    classified: Event


class Pipeline:
    """Runs requests until it is closed; safe to share between threads.

    Args:
        buffers: one per batch that can be under way.
        segment: the segmenter's stream.
        classify: the classifier's stream; may be the same one.
        max_batch: most images per batch.
        max_wait: seconds for which a batch that is not full waits for more images.
        threads: how many threads preprocess images, how many others read them, and how many run the
            steps of `submit`'s calls.
        most_bytes: limit on decoded images and on what is being decoded; see `ByteBudget`.
        reader: reads files; closed with the pipeline.
        release: called at the end, when nothing is under way any more.

    Attributes:
        reader: see above.
        budget: of `most_bytes`.
        calls: those of `submit`; what runs there may wait for room in the budget, but not for other
            work of the pipeline.
    """

    def __init__(
        self,
        buffers: Sequence[BatchBuffers],
        segment: Stream,
        classify: Stream,
        *,
        max_batch: int,
        max_wait: float = 0.0,
        threads: int = 1,
        most_bytes: int = MOST_BYTES,
        reader: FileReader | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._buffers, self._segment, self._classify = buffers, segment, classify
        self._answers = ThreadStream("answers")
        self._workers = WorkerPool(threads)
        self._readers = WorkerPool(threads, "read")  # apart: a slow disk must not stop the rest
        self.reader = reader or FileReader()
        self.budget = ByteBudget(most_bytes)
        self._batcher = RequestBatcher(max_batch, max_wait, self.budget)
        self._metrics = MetricsRecorder()
        self._buffer_bytes = sum(one.nbytes for one in buffers)
        self._batches_under_way = len(buffers)
        # One image of each fills the batches under way and the next, and gives each thread a file.
        self.calls = BackgroundCalls(threads, self.room + max_batch + threads)
        self._exiting = False
        self._process = os.getpid()
        self._release = release
        self._idle: SimpleQueue[BatchBuffers] = SimpleQueue()
        for one in buffers:
            self._idle.put(one)
        # A daemon, like the streams' threads: an unclosed engine must not keep the process alive.
        self._batches = threading.Thread(target=self._run, name="medfocus-batches", daemon=True)
        self._batches.start()
        _OPEN.add(self)

    def _run(self) -> None:
        try:
            for number in count():
                buffers = self._idle.get()
                requests = self._batcher.take()
                if not requests:
                    break
                self._launch(number, buffers, requests)
                del requests  # an idle pipeline keeps no images alive
        finally:  # also after an error that nothing above handles: nobody may wait for ever
            self._batcher.stop(_BROKEN)
            self.budget.stop()
            self._end()

    def _end(self) -> None:
        for stream in (self._segment, self._classify, self._answers):
            stream.close()
        self._workers.close()
        self.reader.stop()
        self._readers.close()
        self.reader.close()
        self.calls.close()
        self._release()
        self._buffers, self._idle = [], SimpleQueue()  # frees them even while `self` is referenced

    def _launch(self, number: int, buffers: BatchBuffers, requests: list[ImageRequest]) -> None:
        """Schedule all stages of a batch."""
        prepared = PreprocessingTasks(buffers, requests)
        scheduled: list[Event] = [prepared]
        try:
            buffers.begin(requests)
            prepared.start(self._workers)
            segmented = self._segment.submit(partial(self._stage, buffers.segment), after=prepared)
            scheduled.append(segmented)
            classified = self._classify.submit(
                partial(self._stage, buffers.classify), after=segmented
            )
            scheduled.append(classified)
            batch = _Batch(number, buffers, requests, prepared, segmented, classified)
            self._answers.submit(partial(self._answer, batch))
        except BaseException as error:
            for event in scheduled:  # what was scheduled still uses the buffers
                with suppress(BaseException):
                    event.wait()
            self._recycle(buffers)
            self._fail(requests, error)

    def _answer(self, batch: _Batch) -> None:
        try:
            batch.classified.wait()
            batch.segmented.wait()  # has ended before; on CUDA this reads its times
            begun = time.perf_counter()
            outputs = [batch.buffers.outputs(row) for row in range(len(batch.requests))]
            prepares, stages = self._spans(batch, begun)
        except BaseException as error:
            failure = error
            for event in (batch.segmented, batch.classified):  # what was launched uses the buffers
                with suppress(BaseException):
                    event.wait()
        else:
            self._recycle(batch.buffers)
            try:
                for request, prepare in zip(batch.requests, prepares, strict=True):
                    request.spans += (prepare, *stages)
                self._metrics.add(prepares + stages)
                self._metrics.answered(
                    stages[-1].ended - request.submitted for request in batch.requests
                )
            finally:
                for request, output, wrong in zip(
                    batch.requests, outputs, batch.prepared.errors, strict=True
                ):
                    self._batcher.settle(request, output if wrong is None else wrong)
            return
        self._recycle(batch.buffers)
        self._fail(batch.requests, failure)
        failure.__traceback__ = None  # which refers to this frame, and so to the whole batch

    def _stage(self, work: Callable[[], None]) -> None:
        if self._exiting:
            raise without_traceback(CLOSED)
        work()

    def _recycle(self, buffers: BatchBuffers) -> None:
        buffers.end()
        self._idle.put(buffers)

    def _fail(self, requests: list[ImageRequest], error: BaseException) -> None:
        """Handle a batch that raised: retry it in halves, fail its requests, or fail the engine."""
        outcome: MedfocusError | None = _BROKEN  # if even this raises
        try:
            outcome = self._outcome(requests, error)
        finally:
            if outcome is not None:
                for request in requests:
                    self._batcher.settle(request, outcome)

    def _outcome(self, requests: list[ImageRequest], error: BaseException) -> MedfocusError | None:
        """The error of the requests of a batch that raised; None if they are queued again."""
        if is_out_of_memory(error) and len(requests) > 1:
            if self._batcher.put_back(requests):
                return None
            return self._batcher.failure or CLOSED
        if is_out_of_memory(error):
            return DeviceError(
                requests[0].image.source,
                f"there is no memory to run even this one image ({error})",
                "free some, or use another device",
                code="device.out_of_memory",
            )
        if isinstance(error, MedfocusError) and not isinstance(error, DeviceError):
            return error
        # After a failure the device's state is unknown, so the engine ends.
        problem = f"its backend failed ({type(error).__name__}: {error})"
        outcome = DeviceError("engine", problem, "load the engine again")
        self._batcher.stop(outcome)
        self.budget.stop()
        log.error("the backend failed", exc_info=error)
        return outcome

    def _spans(self, batch: _Batch, answering: float) -> tuple[list[Span], list[Span]]:
        """The spans of a batch, from its events: one per image, and those of the whole batch."""
        prepared, segmented, classified = batch.prepared, batch.segmented, batch.classified
        stages = (
            ("segment", segmented.begun, segmented.ended, prepared.ended),
            ("classify", classified.begun, classified.ended, segmented.ended),
            ("answer", answering, time.perf_counter(), classified.ended),
        )
        index = self._buffers.index(batch.buffers)
        whole = [
            Span(stage, stage, begun, ended, begun - before, len(batch.requests))
            for stage, begun, ended, before in stages
        ]
        prepares, whole = (
            [replace(span, batch=batch.number, buffers=index) for span in spans]
            for spans in (prepared.spans, whole)
        )
        return prepares, whole

    @property
    def failure(self) -> MedfocusError | None:
        """Why no more requests are accepted: it was closed, or its backend failed."""
        return self._batcher.failure

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that has the threads."""
        return os.getpid() != self._process

    @property
    def max_batch(self) -> int:
        """Most images per batch; lower than at first after out of memory."""
        return self._batcher.max_batch

    @property
    def room(self) -> int:
        """How many images can be under way."""
        return self.max_batch * self._batches_under_way

    def read(
        self, task: Callable[[Callable[[int], None]], _T], spans: list[Span] | None = None
    ) -> "Future[_T]":
        """Run a task that reads, in a thread for such tasks.

        Args:
            task: called with a function that waits until so many bytes may be held; the time that
                it waits counts as waiting, not as reading.
            spans: gets this work's before the future is done.

        Raises:
            MedfocusError: the pipeline is closed.
        """
        try:
            return self._readers.submit(partial(self._timed, time.perf_counter(), task, spans))
        except RuntimeError:
            raise without_traceback(self.failure or CLOSED) from None

    def _timed(
        self,
        submitted: float,
        task: Callable[[Callable[[int], None]], _T],
        spans: list[Span] | None,
    ) -> _T:
        begun, blocked = time.perf_counter(), 0.0

        def admit(count: int) -> None:
            nonlocal blocked
            since = time.perf_counter()
            self._admit(count, 1)
            blocked += time.perf_counter() - since

        try:
            return task(admit)
        finally:
            lane, ended = threading.current_thread().name, time.perf_counter()
            waited = begun + blocked - submitted
            span = Span("read", lane, begun + blocked, ended, waited)
            if spans is not None:
                spans.append(span)
            self._metrics.add([span])

    def submit(self, requests: Sequence[ImageRequest]) -> None:
        """Queue requests together: they share a batch as far as it has room.

        Blocks until their images are within the limit on bytes. If `failure` is set, they are
        resolved with it.
        """
        held = sum(request.image.pixels.nbytes for request in requests)
        self._admit(held, len(requests))
        self.submit_admitted(requests)

    def _admit(self, held: int, images: int) -> None:
        """Hold the bytes of announced images.

        While they wait for that, no batch waits for them: it may be what holds the bytes.
        """
        if not self.budget.acquire_now(held):
            self.announce(-images)
            self.budget.acquire(held)
            self.announce(images)

    def submit_admitted(self, requests: Sequence[ImageRequest]) -> None:
        """Queue requests whose images' bytes are already held in `budget`."""
        self._batcher.put(requests)

    def announce(self, count: int) -> None:
        """Say that `count` images will be submitted soon: a batch waits a moment for them."""
        self._batcher.announce(count)

    def stats(self) -> Stats:
        """What was done so far, and the current load."""
        queue = self._batcher
        held = self.budget.held
        return self._metrics.stats(len(queue), held, self._buffer_bytes, queue.max_batch)

    def observe(self, observer: Observer) -> None:
        """See `Engine.observe`."""
        self._metrics.observe(observer)

    def tracing(self) -> AbstractContextManager[list[Span]]:
        """A list to which all spans are appended until the block ends."""
        return self._metrics.tracing()

    def stop(self) -> None:
        """Accept no more requests; the threads end once the batches under way are answered."""
        self._batcher.stop(CLOSED)
        self.budget.stop()

    def close(self) -> None:
        """Stop, and wait until all threads have ended."""
        self.stop()
        self._batches.join()


_OPEN: "weakref.WeakSet[Pipeline]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End all pipelines at exit: a runtime must not be torn down while it computes.

    As `concurrent.futures` does, what was submitted is finished first. Then stages that have not
    begun are cancelled.
    """
    pipelines = [pipeline for pipeline in _OPEN if not pipeline.forked]
    try:
        for pipeline in pipelines:
            pipeline.calls.finish()
    finally:  # also when a user interrupts that
        for pipeline in pipelines:
            pipeline._exiting = True
            pipeline.close()
