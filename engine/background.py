"""Calls that go on in the background without a thread that waits for each."""

import atexit
import os
import threading
from collections.abc import Generator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from medfocus.engine.runtime.worker_pool import WorkerPool

T = TypeVar("T")

_UNDER_WAY: "set[BackgroundCall[Any]]" = set()


class BackgroundCall(Future[T]):
    """The future of what a generator returns, which yields each future that it has to wait for.

    Cancelling closes the generator: at once, or if it is running then when it next waits.

    Args:
        steps: the generator.
        workers: run it, from one future that it waits for to the next.

    Raises:
        RuntimeError: the workers are closed.
    """

    def __init__(self, steps: "Generator[Future[Any], None, T]", workers: WorkerPool) -> None:
        super().__init__()
        self._steps, self._workers = steps, workers
        self._running = threading.Lock()
        workers.submit(self._run)
        _UNDER_WAY.add(self)

    def cancel(self) -> bool:
        """See `Future`."""
        cancelled = super().cancel()
        self._close_if_cancelled()
        return cancelled

    def _run(self) -> None:
        with self._running:
            if not self.cancelled():
                self._advance()
        self._close_if_cancelled()

    def _advance(self) -> None:
        try:
            while (awaited := next(self._steps)).done():
                pass
        except StopIteration as end:
            if self.set_running_or_notify_cancel():
                self.set_result(end.value)
        except BaseException as error:
            if self.set_running_or_notify_cancel():
                self.set_exception(error)
        else:
            awaited.add_done_callback(self._resume)
            return
        _UNDER_WAY.discard(self)

    def _resume(self, _: "Future[Any]") -> None:
        self._workers.submit(self._run)

    def _close_if_cancelled(self) -> None:
        """While the generator runs this does nothing: `_run` calls it afterwards."""
        if self.cancelled() and self._running.acquire(blocking=False):
            try:
                if self in _UNDER_WAY:
                    self._steps.close()
                    _UNDER_WAY.discard(self)
                    self.set_running_or_notify_cancel()
            finally:
                self._running.release()


@atexit.register  # before the pipelines' own, which was registered earlier
def _finish_all() -> None:
    """At exit, as `concurrent.futures` does: what was submitted is finished."""
    wait(set(_UNDER_WAY))


os.register_at_fork(after_in_child=_UNDER_WAY.clear)  # their threads are in the parent
