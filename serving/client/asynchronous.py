"""`AsyncClient`: an engine of a service, for asyncio."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from medfocus.engine.artifact.manifest import Manifest, from_json
from medfocus.engine.io.images import ImageSource
from medfocus.engine.prediction import Prediction, failed_prediction
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points
from medfocus.engine.runtime.read_ahead import PromptedSource, source_name
from medfocus.engine.sources import as_list, with_prompts
from medfocus.errors import ImageError, InputError, MedfocusError
from medfocus.serving.client.answers import answer_of, unexpected
from medfocus.serving.client.connection import Connection
from medfocus.serving.client.stream import OrderedStream
from medfocus.serving.client.uploads import Upload, upload_of
from medfocus.serving.errors import ServiceError

TIMEOUT = 600.0
# What is wrong with one request, and says nothing of the next one.
_OF_ONE_REQUEST = ("serve.request", "serve.schema", "serve.body_too_large", "serve.deadline")


class AsyncClient:
    """An engine of a service; its predictions equal those of `Engine.classify` on the same images.

    Each source is a request of its own, and several are under way; the service's engine batches
    them. Files are sent as they are, and images in memory as PNG, without loss. Names are not
    sent.

    Args:
        url: of the service, as `https://host:8443`.
        engine: its name; None for the only one that the service has.
        token: None for that of the environment variable `MEDFOCUS_TOKEN`, if there is one.
        timeout: seconds that the service may take for one source, if its own limit is not lower,
            and for which a request is sent again while the service is busy.
        verify: a PEM file with the certificates of authorities to trust; None for the system's.

    Raises:
        InputError: a URL or a token that is none (`serve.url`, `serve.token`).
        FileError: `verify` cannot be read, or holds no certificate (`serve.certificate`).
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
        self._connection = Connection(url, token, timeout, verify)
        self._engine = engine
        self._version: str | None = None  # that all answers must be of, if one is pinned
        self._naming = asyncio.Lock()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def engines(self) -> list[dict[str, Any]]:
        """Each engine's name, state, version, backend and load, as `GET /v1/engines` has them.

        Raises:
            MedfocusError: see `classify`.
        """
        content = await self._connection.get("/v1/engines")
        try:
            found = [dict(each) for each in json.loads(content)]
            assert all(isinstance(each["name"], str) for each in found)
        except (AssertionError, KeyError, RecursionError, TypeError, ValueError):
            raise unexpected(self._connection.url) from None
        return found

    async def manifest(self, *, pin: bool = False) -> Manifest:
        """The engine's manifest, as it is now.

        Args:
            pin: from now on refuse the answers of any other version of the engine, which the
                service may be given while it runs.

        Raises:
            EngineDirectoryError: of a schema that this version does not read.
            MedfocusError: see `classify`.
        """
        content = await self._connection.get(f"{await self._path()}/manifest")
        manifest = from_json(content)
        if pin:
            self._version = hashlib.sha256(content).hexdigest()[:16]
        return manifest

    async def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[PerFrame[Box] | None] | None = None,
        points: Sequence[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> list[Prediction]:
        """Classify a batch of images; arguments and predictions are those of `Engine.classify`.

        Raises:
            InputError: see `Engine.classify`; the service has no such engine, or it is not ready
                (`serve.unknown_engine`, `serve.not_ready`).
            RequestError: the service does not know the token, or it may not do this
                (`serve.no_token`, `serve.not_allowed`).
            BusyError: the engine's queue was full, for as long as `timeout` (`serve.busy`).
            ServiceError: the service cannot be reached (`serve.unreachable`, `serve.untrusted`),
                gives no answer (`serve.no_answer`), or not that of medfocus (`serve.unexpected`);
                an answer is of another version than the pinned one (`serve.engine_changed`).
            MedfocusError: another error of the service, or of its engine.
        """
        sources = as_list(batch, boxes, points)
        found = self.stream(
            sources, boxes=boxes, points=points, embeddings=embeddings, keep_masks=keep_masks
        )
        return [each async for each in found]

    async def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        points: Iterable[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> AsyncIterator[Prediction]:
        """Classify a stream of images in bounded memory; predictions come in their order.

        Args:
            sources: like those of `Engine.stream`, pulled in another thread.
            boxes, points, embeddings, keep_masks: see `Engine.stream`.

        Raises:
            MedfocusError: see `classify`.
        """
        begun = self.begun(
            sources, boxes=boxes, points=points, embeddings=embeddings, keep_masks=keep_masks
        )
        try:
            while (predictions := await begun.next()) is not None:
                for each in predictions:
                    yield each
        finally:
            begun.stop()

    def begun(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[PerFrame[Box] | None] | None = None,
        points: Iterable[PerFrame[Points] | None] | None = None,
        embeddings: bool = False,
        keep_masks: bool = True,
    ) -> OrderedStream[PromptedSource, list[Prediction]]:
        """A stream under way, of one list per source: the predictions of its frames."""

        def begin(number: int, item: PromptedSource) -> Awaitable[list[Prediction]]:
            try:
                upload = upload_of(item, number, embeddings, keep_masks)
            except MedfocusError as error:
                return _failed(item.name or source_name(item.source, number), error)
            return self._answered(upload)

        return OrderedStream(with_prompts(sources, boxes, points), begin)

    async def _answered(self, upload: Upload) -> list[Prediction]:
        try:
            with upload.file:
                path = f"{await self._path()}/classify"
                content = await self._connection.post(path, upload.content)
        except OSError:
            hint = "check the disk, and send it again"
            broken = ImageError(upload.name, "cannot be read to its end", hint)
            return [failed_prediction(upload.name, broken)]
        except MedfocusError as error:
            if error.code not in _OF_ONE_REQUEST:
                raise
            return [failed_prediction(upload.name, upload.named_error(error))]
        answer = answer_of(content, self._connection.url)
        if self._version not in (None, answer.version):
            problem = "was replaced by another version of itself"
            hint = "run this again, with one version for all images"
            item = f"engine {self._engine}"
            raise ServiceError(item, problem, hint, code="serve.engine_changed")
        return [upload.named(each) for each in answer.predictions]

    async def _path(self) -> str:
        async with self._naming:
            if self._engine is None:
                names = [each["name"] for each in await self.engines()]
                if len(names) != 1:
                    problem = f"has {len(names)} engines, and none was named"
                    hint = f"name one: {', '.join(names)}" if names else "load one"
                    url = self._connection.url
                    raise InputError(url, problem, hint, code="serve.unknown_engine")
                self._engine = names[0]
            return f"/v1/engines/{quote(self._engine, safe='')}"


async def _failed(name: str, error: MedfocusError) -> list[Prediction]:
    return [failed_prediction(name, error)]
