"""What the pipeline is made of: streams that do work in order, and events that say it is done.

The pipeline knows these two protocols only. Here are worker threads; `backends/torch_stream.py` has
CUDA's streams, in the same words.
"""

import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

Task = Callable[[], object]


class Event(Protocol):
    """The end of a piece of work, in the future or in the past."""

    @property
    def begun(self) -> float:
        """When the work began, on the clock of `time.perf_counter`; known after `wait`."""

    @property
    def ended(self) -> float:
        """When it ended."""

    def wait(self) -> None:
        """Let this thread wait until the work has ended.

        Raises:
            BaseException: what the work, or work that it was to follow, has raised.
        """


class Stream(Protocol):
    """Does what it is given, one piece of work at a time, in order."""

    def submit(self, work: Task, after: Event | None = None) -> Event:
        """Queue work, to begin once `after` has ended; where that failed it fails alike.

        Returns at once.
        """

    def close(self) -> None:
        """Wait for the work that is queued, and end. Nothing may be submitted afterwards."""


class ThreadEvent:
    """An event that a thread sets."""

    begun = ended = 0.0

    def __init__(self) -> None:
        self._happened = threading.Event()
        self._error: BaseException | None = None

    def begin(self) -> None:
        """The work begins now."""
        self.begun = time.perf_counter()

    def finish(self, error: BaseException | None = None) -> None:
        """The work has ended, by an error if there is one."""
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
        # A daemon, so that an engine that nobody closed does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"medfocus-{name}", daemon=True)
        self._thread.start()

    def submit(self, work: Task, after: Event | None = None) -> Event:
        """See `Stream`."""
        event = self._event()
        self._queue.put((work, after, event))
        return event

    def close(self) -> None:
        """See `Stream`."""
        self._queue.put(None)
        self._thread.join()

    def _event(self) -> ThreadEvent:
        return ThreadEvent()

    def _do(self, work: Task, after: Event | None, event: ThreadEvent) -> None:
        if after is not None:
            after.wait()
        event.begin()
        work()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, after, event = item
            error = None
            try:
                self._do(work, after, event)
            except BaseException as raised:
                # What failed for want of memory must not hold its tensors while it is tried again.
                traceback.clear_frames(raised.__traceback__)
                error = raised
            event.finish(error)
            del item, work, after, event, error  # what is done must not be kept while it waits
