"""Sources to answers in their order, several requests under way, in bounded memory."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from medfocus.serving.client.connection import AT_ONCE

S = TypeVar("S")
A = TypeVar("A")


class OrderedStream(Generic[S, A]):
    """The answers to sources, of which some are under way. Made within a running event loop.

    A thread of its own pulls the sources, as an engine's stream does: the iterator may wait for
    the answers to earlier ones. If it raises, the answers to all earlier sources come first.

    Args:
        sources: pulled no further ahead than `AT_ONCE`.
        begin: called in that thread, makes what is answered.
    """

    def __init__(self, sources: Iterator[S], begin: Callable[[int, S], Awaitable[A]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources, self._begin = sources, begin
        self._begun: asyncio.Queue[asyncio.Future[A] | None] = asyncio.Queue()
        self._window = threading.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Future[A]] = set()
        self._failure: BaseException | None = None
        self._stopped = False
        threading.Thread(target=self._pull, name="medfocus-sources", daemon=True).start()

    async def next(self) -> A | None:
        """The next answer; None after the last.

        Raises:
            Exception: what the source's answer, or in its turn the iterator, raises.
        """
        task = await self._begun.get()
        if task is None:
            if self._failure is not None:
                raise self._failure
            return None
        answer = await task
        self._tasks.discard(task)
        self._window.release()
        return answer

    def stop(self) -> None:
        """Cancel what is under way, and pull no more sources. Called in the event loop."""
        self._stopped = True
        self._window.release()
        for task in self._tasks:
            task.cancel()

    def _pull(self) -> None:
        try:
            for number in itertools.count():
                self._window.acquire()
                if self._stopped:
                    break
                answer = self._begin(number, next(self._sources))
                self._loop.call_soon_threadsafe(self._follow, answer)
        except StopIteration:
            pass
        except BaseException as error:
            self._failure = error
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._begun.put_nowait, None)

    def _follow(self, answer: Awaitable[A]) -> None:
        task = asyncio.ensure_future(answer)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # never logged
        self._tasks.add(task)
        self._begun.put_nowait(task)
        if self._stopped:
            task.cancel()
