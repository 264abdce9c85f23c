"""Classify the images of a request."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool

from medfocus.engine import Prediction
from medfocus.serving.answers.predictions import answer
from medfocus.serving.api.patience import seconds_of, unless_gone
from medfocus.serving.api.schemas import schema_of
from medfocus.serving.api.uploads import BINARY, FORM, JSON, Body, Options, received
from medfocus.serving.inference import classified
from medfocus.serving.security.access import needs
from medfocus.serving.state import service_of

router = APIRouter(prefix="/v1/engines", tags=["classify"])

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
                JSON: {"schema": schema_of(Body)},
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
    seconds = seconds_of(request, service.config.limits.seconds)
    async with received(request, service.config.limits) as upload:
        options = upload.options
        work = classified(
            service,
            name,
            upload.files,
            seconds,
            boxes=options.boxes,
            points=options.points,
            embeddings=options.embedding,
            keep_masks=options.mask is not None,
        )
        answered = await unless_gone(request, work)
    if options.mask is None:
        found = _answers(answered.predictions, options)
    else:  # they are resized and compressed, which would keep all other clients waiting
        found = await run_in_threadpool(_answers, answered.predictions, options)
    return {"engine": {"name": name, "version": answered.version}, "predictions": found}


def _answers(predictions: list[Prediction], options: Options) -> list[dict[str, Any]]:
    return [answer(each, options.mask, options.embedding) for each in predictions]
