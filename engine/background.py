"""Calls that go on in the background without a thread that waits for each."""

import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from medfocus.engine.worker_pool import WorkerPool

T = TypeVar("T")


class BackgroundCall(Future[T]):
    """The future of what a generator returns, which yields each future that it has to wait for.

    Cancelling closes the generator: at once, or if it is running then when it next waits.

    Args:
        steps: the generator.
        calls: that this is one of.
    """

    def __init__(self, steps: "Generator[Future[Any], None, T]", calls: "BackgroundCalls") -> None:
        super().__init__()
        self._steps, self._calls = steps, calls
        self._running = threading.Lock()

    def cancel(self) -> bool:
        """See `Future`."""
        cancelled = super().cancel()
        self._close_if_cancelled()
        return cancelled

    def run(self) -> None:
        """Run the generator until it has to wait."""
        with self._running:
            awaited = None if self.cancelled() else self._advance()
        self._close_if_cancelled()
        if awaited is not None:  # only now: if it is done by now, this thread may have to go on
            awaited.add_done_callback(lambda _: self._calls.resume(self))

    def _advance(self) -> "Future[Any] | None":
        """What the generator waits for; None once it has ended."""
        try:
            while (awaited := next(self._steps)).done():
                pass
            return awaited
        except StopIteration as end:
            if self.set_running_or_notify_cancel():
                self.set_result(end.value)
        except BaseException as error:
            if self.set_running_or_notify_cancel():
                self.set_exception(error)
        self._calls.remove(self)
        return None

    def _close_if_cancelled(self) -> None:
        """While the generator runs this does nothing: `run` calls it afterwards."""
        if self.cancelled() and self._running.acquire(blocking=False):
            try:
                if self in self._calls:
                    try:
                        self._steps.close()
                    finally:
                        self.set_running_or_notify_cancel()
                        self._calls.remove(self)
            finally:
                self._running.release()


class BackgroundCalls:
    """All background calls of a pipeline: they begin in their order, and so many at most go on.

    A call that has not begun holds nothing: it has opened no file and copied no image.

    Args:
        threads: how many run the calls, each from one future that it waits for to the next.
        most: how many calls may have begun and not ended.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._workers, self._most = WorkerPool(threads, "call"), most
        self._waiting: dict[BackgroundCall[Any], None] = {}  # in their order
        self._begun: set[BackgroundCall[Any]] = set()
        self._closed = False
        self._changed = threading.Condition()

    def __contains__(self, call: BackgroundCall[Any]) -> bool:
        return call in self._waiting or call in self._begun

    @property
    def begun(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._begun)

    def submit(self, steps: "Generator[Future[Any], None, T]") -> BackgroundCall[T]:
        """Add the call of a generator, and return at once.

        Raises:
            RuntimeError: closed.
        """
        call = BackgroundCall(steps, self)
        with self._changed:
            if self._closed:
                raise RuntimeError("closed")
            self._waiting[call] = None
            self._begin()
        return call

    def resume(self, call: BackgroundCall[Any]) -> None:
        """Run a call on, which waits for nothing any more."""
        try:
            self._workers.submit(call.run)
        except (RuntimeError, MemoryError):  # closed: a call has nothing to wait for then
            call.run()

    def remove(self, call: BackgroundCall[Any]) -> None:
        """Forget a call that has ended, and begin the next."""
        with self._changed:
            self._waiting.pop(call, None)
            self._begun.discard(call)
            self._begin()
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all calls have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._begun))

    def close(self) -> None:
        """Take no more calls; begin all that have not begun, and do not wait for them.

        To be called once the pipeline accepts nothing any more, so that they end at once.
        """
        with self._changed:
            self._closed = True
            self._begin()
        self._workers.close(wait=False)  # may be who closes this

    def _begin(self) -> None:
        while self._waiting and (self._closed or len(self._begun) < self._most):
            call = next(iter(self._waiting))
            self._workers.submit(call.run)
            self._begun.add(call)
            del self._waiting[call]
