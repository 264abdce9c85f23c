"""What the pipeline runs work on: streams that execute tasks in order, events that mark their end.

The pipeline knows only these two protocols. This module implements them with worker threads;
`backends/torch/cuda_stream.py` implements them with CUDA streams.
"""

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

Task = Callable[[], object]


class Event(Protocol):
    """The end of a task, past or future."""

    @property
    def begun(self) -> float:
        """When the task began, on the clock of `time.perf_counter`; valid after `wait`."""

    @property
    def ended(self) -> float:
        """When the task ended; valid after `wait`."""

    def wait(self) -> None:
        """Block until the task has ended.

        Raises:
            BaseException: what the task, or a task it depends on, raised.
        """


class Stream(Protocol):
    """Executes tasks one at a time, in the order of submission."""

    def submit(self, task: Task, after: Event | None = None) -> Event:
        """Queue a task and return at once.

        Args:
            task: what to call.
            after: the task begins once this has ended; if that failed, this fails with its error.
        """

    def close(self) -> None:
        """Wait for all queued tasks, then stop. Nothing may be submitted afterwards."""


class ThreadEvent:
    """An event that a thread sets."""

    begun = ended = 0.0

    def __init__(self) -> None:
        self._happened = threading.Event()
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Record that the task begins now."""
        self.begun = time.perf_counter()

    def finish(self, error: BaseException | None = None) -> None:
        """Record that the task has ended, with its error if it raised one."""
        self.ended = time.perf_counter()
        self._error = error
        self._happened.set()

    def wait(self) -> None:
        """See `Event`."""
        self._happened.wait()
        if self._error is not None:
            raise self._error


class ThreadStream:
    """A stream that is a worker thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._queue: SimpleQueue[tuple[Task, Event | None, ThreadEvent] | None] = SimpleQueue()
        # A daemon, so that an engine that was never closed does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"medfocus-{name}", daemon=True)
        self._thread.start()

    def submit(self, task: Task, after: Event | None = None) -> Event:
        """See `Stream`."""
        event = self._event()
        self._queue.put((task, after, event))
        return event

    def close(self) -> None:
        """See `Stream`."""
        self._queue.put(None)
        self._thread.join()

    def _event(self) -> ThreadEvent:
        return ThreadEvent()

    def _execute(self, task: Task, after: Event | None, event: ThreadEvent) -> None:
        if after is not None:
            after.wait()
        event.begin()
        task()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            task, after, event = item
            error = None
            try:
                self._execute(task, after, event)
            except BaseException as raised:
                error = raised
                with suppress(Exception):
                    # After out of memory the frames must not keep tensors alive during the retry.
                    traceback.clear_frames(raised.__traceback__)
            event.finish(error)
            del item, task, after, event, error  # an idle stream keeps nothing alive
