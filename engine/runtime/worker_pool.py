"""The host's threads, which read and prepare images."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class WorkerPool:
    """Threads that do what they are given, first come, first served.

    Not concurrent.futures' pool: that one takes nothing more once the main thread has ended,
    while other threads of a service may still ask.
    """

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"medfocus-host_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], _T]) -> "Future[_T]":
        """Queue work. Returns at once.

        Raises:
            RuntimeError: they are closed.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._queue.put((future, work))
        return future

    def close(self) -> None:
        """Wait for the work that is queued, and end."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del item, future, work  # what is done must not be kept while it waits
