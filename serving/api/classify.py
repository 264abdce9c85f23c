"""Classify the images of a request."""

import asyncio
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool

from medfocus.engine import Prediction
from medfocus.serving.access import needs
from medfocus.serving.answers import answer
from medfocus.serving.api.uploads import BINARY, FORM, JSON, Body, Options, Upload, received
from medfocus.serving.engines import ServedEngine
from medfocus.serving.problems import RequestError
from medfocus.serving.state import service_of

router = APIRouter(prefix="/v1/engines", tags=["classify"])
TIMEOUT_HEADER = "x-request-timeout"  # seconds

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {
            "files": {"type": "array", "items": _BINARY["schema"]},
            "options": {"type": "string", "description": "JSON, as below without images"},
        },
    }
}


@router.post(
    "/{name}/classify",
    dependencies=[Depends(needs("classify"))],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                FORM: _FORM,
                JSON: {"schema": Body.model_json_schema()},
                BINARY[0]: _BINARY,
            },
        }
    },
)
async def classify(request: Request, name: str) -> dict[str, Any]:
    """One answer per image; a file of several frames has one per frame.

    An image that cannot be read has an `error` in its answer, and the request succeeds.
    """
    service = service_of(request)
    if service.stopping:
        raise RequestError("service", "is stopping", "send it again", code="serve.stopping")
    seconds = _seconds(request, service.config.limits.seconds)
    async with received(request, service.config.limits) as upload:
        if not 1 <= len(upload.files) <= service.config.limits.images:
            problem = f"has {len(upload.files)} files"
            raise RequestError("request", problem, f"send 1 to {service.config.limits.images}")
        with service.engines.admitted(name, len(upload.files)) as served:
            predictions = await _answered(served, upload, seconds, request)
            for each in predictions:
                service.metrics.image(name, each.error.code if each.error else "")
            # Masks are resized and compressed, which would keep all other clients waiting.
            found = await run_in_threadpool(_answers, predictions, upload.options)
            return {"engine": {"name": name, "version": served.version}, "predictions": found}


def _answers(predictions: list[Prediction], options: Options) -> list[dict[str, Any]]:
    return [answer(each, options.mask, options.embedding) for each in predictions]


async def _answered(
    served: ServedEngine, upload: Upload, seconds: float, request: Request
) -> list[Prediction]:
    """The engine's predictions, unless the client goes away or the time is used up.

    Raises:
        RequestError: they did not come in time (`serve.deadline`).
    """
    options = upload.options
    future: Future[list[Prediction]] = served.engine.submit(
        upload.files,
        boxes=options.boxes,
        points=options.points,
        embeddings=options.embedding,
        keep_masks=options.mask is not None,
    )
    working = asyncio.wrap_future(future)
    leaving = asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {working, leaving}
    try:
        await asyncio.wait(either, timeout=seconds, return_when="FIRST_COMPLETED")
        if working.done():
            return working.result()
        future.cancel()
        if leaving.done():
            raise RequestError("client", "is gone", "stay until the answer", code="serve.gone")
        problem = f"was not answered within {seconds:g} s"
        hint = f"send fewer images, or a larger {TIMEOUT_HEADER}"
        raise RequestError("request", problem, hint, code="serve.deadline")
    finally:
        leaving.cancel()


async def _gone(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(request: Request, most: float) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    try:
        seconds = most if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RequestError(TIMEOUT_HEADER, "is not a number of seconds", "send one above 0")
    return min(seconds, most)
