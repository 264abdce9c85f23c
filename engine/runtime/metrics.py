"""What an engine has done: counts and times per stage, latencies, and the spans of a trace."""

import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

log = logging.getLogger(__name__)

LATENCIES_KEPT = 10_000  # those of the latest images

STAGES = ("read", "prepare", "segment", "classify", "answer")


@dataclass(frozen=True)
class Span:
    """One piece of work; times in seconds on the clock of `time.perf_counter`.

    Attributes:
        stage: one of `STAGES`.
        lane: the thread or stream that ran it.
        begun: when it began.
        ended: when it ended.
        waited: seconds from when it could have begun to when it did.
        images: how many images it was for.
        batch: the batch's number; None before an image is in a batch.
        buffers: which batch buffers of the pool held the batch; None before.
        queued: for `prepare`, the seconds from when the image was submitted to when it was taken
            into a batch; not part of `waited`.
    """

    stage: str
    lane: str
    begun: float
    ended: float
    waited: float = 0.0
    images: int = 1
    batch: int | None = None
    buffers: int | None = None
    queued: float = 0.0


Observer = Callable[[Sequence[Span]], object]


@dataclass(frozen=True)
class StageStats:
    """Totals of one stage.

    The stages run concurrently, and `read` and `prepare` in several threads each: their seconds
    add up to more than the elapsed time.

    Attributes:
        images: that went through it.
        runs: pieces of work; for the two graphs, batches.
        seconds: spent working.
        waited: seconds for which work that could have begun had to wait.
    """

    images: int = 0
    runs: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def plus(self, span: Span) -> "StageStats":
        """With one more piece of work."""
        return StageStats(
            self.images + span.images,
            self.runs + 1,
            self.seconds + span.ended - span.begun,
            self.waited + span.waited,
        )


@dataclass(frozen=True)
class Stats:
    """What an engine has done since it was loaded, and its current load.

    Attributes:
        stages: totals by stage, in the order in which an image goes through them.
        images: that went through all stages.
        latency: p50, p95 and p99 of the latest images' seconds from submission to prediction;
            empty before the first image.
        waiting: images queued for a batch.
        waiting_bytes: decoded images of all unresolved requests, queued or under way.
        buffer_bytes: all batch buffers.
        max_batch: most images per batch; lower than requested after out of memory.
    """

    stages: Mapping[str, StageStats]
    images: int
    latency: Mapping[str, float]
    waiting: int
    waiting_bytes: int
    buffer_bytes: int
    max_batch: int

    @property
    def ring_bytes(self) -> int:
        """Deprecated since 0.2.0: the former name of `buffer_bytes`."""
        warnings.warn("use Stats.buffer_bytes", DeprecationWarning, stacklevel=2)
        return self.buffer_bytes


def notify(observer: Observer, spans: Sequence[Span]) -> bool:
    """Call an observer; if it raises, that is logged.

    Returns:
        Whether it did not.
    """
    try:
        observer(spans)
    except Exception as error:  # its text may be about anything
        log.error("an observer of spans raised %s", type(error).__name__)
        return False
    return True


class MetricsRecorder:
    """Collects spans and latencies; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages = {stage: StageStats() for stage in STAGES}
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._answered = 0
        self._observers: list[Observer] = []

    def add(self, spans: Sequence[Span]) -> None:
        """Record finished work."""
        with self._lock:
            for span in spans:
                self._stages[span.stage] = self._stages[span.stage].plus(span)
            observers = list(self._observers)
        for observer in observers:
            if not notify(observer, spans):
                self._forget(observer)

    def observe(self, observer: Observer) -> None:
        """Call it with all work that finishes from now on; see `Engine.observe`."""
        with self._lock:
            self._observers.append(observer)

    def _forget(self, observer: Observer) -> None:
        with self._lock:
            self._observers = [other for other in self._observers if other is not observer]

    def answered(self, latencies: Iterable[float]) -> None:
        """Record images that went through all stages, by their latency in seconds."""
        with self._lock:
            for seconds in latencies:
                self._latencies.append(seconds)
                self._answered += 1

    @contextmanager
    def tracing(self) -> Iterator[list[Span]]:
        """See `Engine.tracing`."""
        trace: list[Span] = []
        observer = trace.extend
        self.observe(observer)
        try:
            yield trace
        finally:
            self._forget(observer)

    def stats(self, waiting: int, waiting_bytes: int, buffer_bytes: int, max_batch: int) -> Stats:
        """The totals so far, together with the pipeline's current load."""
        with self._lock:
            stages, answered = dict(self._stages), self._answered
            latencies = list(self._latencies)
        names = ("p50", "p95", "p99") if latencies else ()
        quantiles = np.quantile(latencies, (0.5, 0.95, 0.99)).tolist() if latencies else ()
        latency = dict(zip(names, quantiles, strict=True))
        return Stats(stages, answered, latency, waiting, waiting_bytes, buffer_bytes, max_batch)
