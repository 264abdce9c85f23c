"""The threads that read and preprocess images."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class WorkerPool:
    """A fixed number of threads that begin tasks in the order of submission.

    Unlike `concurrent.futures.ThreadPoolExecutor` it still accepts work after the main thread has
    ended, when other threads of a service may still make requests.
    """

    def __init__(self, count: int, name: str = "host") -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"medfocus-{name}_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], _T]) -> "Future[_T]":
        """Queue a task and return at once.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._queue.put((future, task))
        return future

    def close(self, wait: bool = True) -> None:
        """End the threads after all queued tasks, and wait for that."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, task = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:
                    future.set_exception(error)
            del item, future, task  # an idle thread keeps nothing alive
