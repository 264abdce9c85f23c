"""What an engine has done: numbers a stage, latencies, and the spans that a trace is made of."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

KEPT = 10_000  # latencies; those of the latest images

_T = TypeVar("_T")

STAGES = ("read", "prepare", "segment", "classify", "answer")


@dataclass(frozen=True)
class Span:
    """A piece of work that was done; times in seconds on the clock of `time.perf_counter`.

    Attributes:
        stage: one of `STAGES`.
        lane: the thread or stream that did it.
        begun, ended: when.
        waited: seconds from when it could have begun to when it did.
        images: how many it was done for.
        batch, buffers: which batch, in which buffers of the pool; None before there is one.
    """

    stage: str
    lane: str
    begun: float
    ended: float
    waited: float = 0.0
    images: int = 1
    batch: int | None = None
    buffers: int | None = None


@dataclass(frozen=True)
class StageStats:
    """Of one stage: images that went through it, seconds it worked, and seconds work waited for it.

    The stages work side by side, and `read` and `prepare` in several threads: their seconds add
    up to more than what has passed.
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
    """What an engine has done since it was loaded, and what it holds now.

    Attributes:
        stages: by name, in the order in which an image goes through them.
        images: that went through all stages.
        latency: p50, p95 and p99 of the seconds from an image's submission to its answer, of the
            latest images; empty before the first.
        waiting: images that wait for buffers; waiting_bytes: of all decoded images unanswered.
        buffer_bytes: of the buffers.
        max_batch: most images that run together; lower than asked for after out of memory.
    """

    stages: Mapping[str, StageStats]
    images: int
    latency: Mapping[str, float]
    waiting: int
    waiting_bytes: int
    buffer_bytes: int
    max_batch: int


class MetricsRecorder:
    """Where spans and latencies are written down; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages = {stage: StageStats() for stage in STAGES}
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._answered = 0
        self._traces: list[list[Span]] = []

    def add(self, spans: Iterable[Span]) -> None:
        """Work that was done."""
        with self._lock:
            for span in spans:
                self._stages[span.stage] = self._stages[span.stage].plus(span)
                for trace in self._traces:
                    trace.append(span)

    def answered(self, latencies: Iterable[float]) -> None:
        """Images that were answered, by their seconds."""
        with self._lock:
            for seconds in latencies:
                self._latencies.append(seconds)
                self._answered += 1

    def timed(self, stage: str, asked: float, work: Callable[..., _T], *arguments: object) -> _T:
        """Do a piece of work, and write it down even where it raises.

        Args:
            stage: one of `STAGES`.
            asked: when the work was asked for, on the clock of `time.perf_counter`.
            work: is called with `arguments`.
        """
        begun = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            lane = threading.current_thread().name
            self.add([Span(stage, lane, begun, time.perf_counter(), begun - asked)])

    @contextmanager
    def tracing(self) -> Iterator[list[Span]]:
        """A list that receives all spans until the block ends."""
        trace: list[Span] = []
        with self._lock:
            self._traces.append(trace)
        try:
            yield trace
        finally:
            with self._lock:
                self._traces = [other for other in self._traces if other is not trace]

    def stats(self, waiting: int, waiting_bytes: int, buffer_bytes: int, max_batch: int) -> Stats:
        """All of it, with what the pipeline knows."""
        with self._lock:
            stages, answered = dict(self._stages), self._answered
            latencies = list(self._latencies)
        names = ("p50", "p95", "p99") if latencies else ()
        quantiles = np.quantile(latencies, (0.5, 0.95, 0.99)).tolist() if latencies else ()
        latency = dict(zip(names, quantiles, strict=True))
        return Stats(stages, answered, latency, waiting, waiting_bytes, buffer_bytes, max_batch)
