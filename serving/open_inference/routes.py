"""The Open Inference Protocol over HTTP, with its binary tensors and Triton's model repository."""

from collections.abc import Callable
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from medfocus.serving.api.engines import load_configured
from medfocus.serving.api.patience import seconds_of, unless_gone
from medfocus.serving.api.schemas import schema_of
from medfocus.serving.errors import RequestError
from medfocus.serving.inference import Answered
from medfocus.serving.open_inference import models
from medfocus.serving.open_inference.http_body import HEADER, Body, encoded, parsed, validated
from medfocus.serving.open_inference.infer import inferred
from medfocus.serving.open_inference.inputs import InferRequest
from medfocus.serving.open_inference.outputs import output_tensors
from medfocus.serving.security.access import needs
from medfocus.serving.state import service_of


class Error(BaseModel):
    """An error as the protocol has it, with a code for programs: see docs/errors.md."""

    error: str
    code: str


router = APIRouter(
    prefix="/v2",
    tags=["Open Inference Protocol"],
    responses={"4XX": {"model": Error}, "5XX": {"model": Error}},
)
MOST_SMALL = 64 * 1024  # bytes of a body that is not for inference
_CLASSIFY: dict[str, Any] = {"dependencies": [Depends(needs("classify"))]}
_ADMINISTER: dict[str, Any] = {"dependencies": [Depends(needs("administer"))]}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schema_of(Body)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


_READINESS: dict[str, Any] = {
    "responses": {
        status: {
            "content": {"application/json": {"schema": {"type": "object"}}},
            "description": text,
        }
        for status, text in ((200, "It answers."), (503, "It does not, or not yet."))
    }
}


class Index(BaseModel):
    """Which engines to list: all, or only those that answer."""

    ready: bool = False


class Change(BaseModel):
    """How to load an engine: there must be no parameters."""

    parameters: dict[str, Any] = {}


def _optional(body: type[BaseModel]) -> dict[str, Any]:
    """A body that may be missing, whatever type its header says: clients often give none."""
    content = {"application/json": {"schema": schema_of(body)}}
    return {"requestBody": {"required": False, "content": content}}


@router.get("/health/live", **_READINESS)
async def live(request: Request) -> JSONResponse:
    """200 as long as the process can answer; 503 if it must be replaced, see `/livez`."""
    found = not service_of(request).engines.lost
    return JSONResponse({"live": found}, 200 if found else 503)


@router.get("/health/ready", **_READINESS)
async def ready(request: Request) -> JSONResponse:
    """200 if every engine answers, else 503."""
    found = models.is_ready(service_of(request))
    return JSONResponse({"ready": found}, 200 if found else 503)


@router.get("")
async def server() -> dict[str, Any]:
    """The service's name, version and extensions of the protocol."""
    return models.server_metadata()


@router.get("/models/{name}/ready", **_READINESS)
@router.get("/models/{name}/versions/{version}/ready", **_READINESS)
async def model_ready(request: Request, name: str, version: str = "") -> JSONResponse:
    """200 if the engine answers, else 503."""
    found = models.is_model_ready(service_of(request), name, version)
    return JSONResponse({"name": name, "ready": found}, 200 if found else 503)


@router.get("/models/{name}", **_CLASSIFY)
@router.get("/models/{name}/versions/{version}", **_CLASSIFY)
async def model(request: Request, name: str, version: str = "") -> dict[str, Any]:
    """The engine's tensors."""
    return models.model_metadata(service_of(request), name, version)


@router.post("/models/{name}/infer", openapi_extra=_BODY, **_CLASSIFY)
@router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY, **_CLASSIFY)
async def infer(request: Request, name: str, version: str = "") -> Response:
    """Classify the images of a request's tensors."""
    service = service_of(request)
    seconds = seconds_of(request, service.config.limits.seconds)
    if request.headers.get("content-encoding", "identity") != "identity":
        problem, hint = "is compressed", "send it as it is"
        raise RequestError("body", problem, hint, code="serve.media_type")
    with service.engines.admitted(name, 1):  # else it is refused before its body is received
        pass
    size, images = request.headers.get(HEADER), service.config.limits.images
    with service.bodies.share() as take:
        content = await _received(request, take)
        # Off the event loop, as it takes long for many pixels.
        body, asked = await to_thread.run_sync(
            parsed, content, size, images, limiter=service.bodies.limiter(len(content))
        )
        work = inferred(service, name, version, asked, seconds)
        answered = await unless_gone(request, work)
    return await run_in_threadpool(_response, name, body, asked, answered)


@router.post("/repository/index", openapi_extra=_optional(Index), **_CLASSIFY)
async def index(request: Request) -> list[dict[str, str]]:
    """Every engine of the configuration, with its state."""
    wanted = validated(Index, await _received(request, _small()) or b"{}")
    return models.repository_index(service_of(request), wanted.ready)


@router.post("/repository/models/{name}/load", openapi_extra=_optional(Change), **_ADMINISTER)
async def load(request: Request, name: str) -> None:
    """Load an engine of the configuration, or its next version; answers once that is ready."""
    models.refuse_parameters(
        validated(Change, await _received(request, _small()) or b"{}").parameters
    )
    await load_configured(service_of(request), name)


@router.post("/repository/models/{name}/unload", **_ADMINISTER)
async def unload(request: Request, name: str) -> None:
    """Unload an engine, once it has answered what it has accepted."""
    await run_in_threadpool(service_of(request).engines.unload, name)


async def _received(request: Request, take: Callable[[int], None]) -> bytearray:
    """A body, of which each piece is taken into account before it is kept."""
    content = bytearray()
    async for chunk in request.stream():
        take(len(chunk))
        content += chunk
    return content


def _small() -> Callable[[int], None]:
    """Refuses what is larger than a few options can be."""
    left = MOST_SMALL

    def take(size: int) -> None:
        nonlocal left
        left -= size
        if left < 0:
            problem, hint = f"is larger than {MOST_SMALL} bytes", "send only what is described"
            raise RequestError("body", problem, hint, code="serve.body_too_large")

    return take


def _response(name: str, body: Body, asked: InferRequest, answered: Answered) -> Response:
    tensors = output_tensors(answered, asked.outputs)
    content, size = encoded(name, answered.version, asked.id, tensors, body.binary)
    if size is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER: str(size)}, media_type="application/octet-stream")
