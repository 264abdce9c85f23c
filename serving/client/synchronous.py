"""`Client`: an engine of a service."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import cached_property
from typing import Any, TypeVar

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.io.images import ImageSource
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points
from medfocus.engine.sources import as_list
from medfocus.errors import InputError
from medfocus.serving.client.asynchronous import TIMEOUT, AsyncClient

T = TypeVar("T")


class Client:
    """`AsyncClient` for programs without an event loop: see there. Safe to share between threads.

        with Client("http://127.0.0.1:8000") as client:
            predictions = client.classify(batch)

    Args:
        url, engine, token, timeout, verify: see `AsyncClient`.

    Raises:
        InputError, FileError: see `AsyncClient`.
    """

    def __init__(
        self,
        url: str,
        engine: str | None = None,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT,
        verify: str | os.PathLike[str] | None = None,
    ) -> None:
        self._client = AsyncClient(url, engine, token=token, timeout=timeout, verify=verify)
        # Of its own, so that what is under way can be cancelled at any point.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="medfocus-client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way, and close all connections."""
        if self._loop.is_closed():
            return
        self._wait(_cancelled_others())
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @cached_property
    def manifest(self) -> Manifest:
        """The engine's manifest, as it was when this was first read; see `AsyncClient.manifest`."""
        return self._wait(self._client.manifest())

    def pin(self) -> None:
        """Read the manifest, and refuse the answers of any other version of the engine."""
        self.__dict__["manifest"] = self._wait(self._client.manifest(pin=True))

    def engines(self) -> list[dict[str, Any]]:
        """See `AsyncClient.engines`."""
        return self._wait(self._client.engines())

    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> list[Prediction]:
        """See `AsyncClient.classify`."""
        sources = as_list(batch, boxes, points)
        found = self.stream(
            sources, boxes=boxes, points=points, embeddings=embeddings, keep_masks=keep_masks
        )
        return list(found)

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        points: Iterable[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> Iterator[Prediction]:
        """See `AsyncClient.stream`."""
        found = self.stream_each(
            sources, boxes=boxes, points=points, embeddings=embeddings, keep_masks=keep_masks
        )
        return (prediction for predictions in found for prediction in predictions)

    def stream_each(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        points: Iterable[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> Iterator[list[Prediction]]:
        """Like `stream`, but yields one list per source: the predictions of its frames."""

        async def begin() -> Any:
            return self._client.begun(
                sources, boxes=boxes, points=points, embeddings=embeddings, keep_masks=keep_masks
            )

        begun = self._wait(begin())
        try:
            while (predictions := self._wait(begun.next())) is not None:
                yield predictions
        finally:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(begun.stop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise _closed()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:  # by `close`, in another thread
            raise _closed() from None
        except BaseException:  # Ctrl-C too: nothing goes on that nobody waits for
            future.cancel()
            raise


def _closed() -> InputError:
    return InputError("client", "is closed", "make another", code="serve.client_closed")


async def _cancelled_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
