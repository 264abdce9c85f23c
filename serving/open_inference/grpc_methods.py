"""What each method of the gRPC services answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool

from medfocus.serving.api.engines import load_configured
from medfocus.serving.errors import RequestError
from medfocus.serving.inference import Answered
from medfocus.serving.open_inference import models
from medfocus.serving.open_inference.grpc_tensors import request_of, response_of
from medfocus.serving.open_inference.infer import inferred
from medfocus.serving.open_inference.inputs import InferRequest
from medfocus.serving.open_inference.messages import CLASSES, HEALTH, HEALTH_CLASSES, PACKAGE
from medfocus.serving.open_inference.outputs import output_tensors
from medfocus.serving.security.tokens import Role
from medfocus.serving.state import Service

SERVICE = f"{PACKAGE}.GRPCInferenceService"
MOST_NAME = 64  # characters of an engine's name that are looked at: none has more than 63
_SERVING, _NOT_SERVING = 1, 2  # grpc.health.v1's


@dataclass(frozen=True)
class Method:
    """A method of a service.

    Attributes:
        request: class of its message.
        answer: from the service, the message and the seconds it may take, to the answer.
        role: that it takes; None for none.
    """

    request: Any
    answer: Callable[[Service, Any, float], Awaitable[Any]]
    role: Role | None

    def engine(self, request: Any) -> str:
        """The name of the engine that a message is for; "" for none."""
        fields = ("model_name", "name", "service")
        return next(
            (_name(getattr(request, each)) for each in fields if hasattr(request, each)), ""
        )


async def _server_live(service: Service, request: Any, seconds: float) -> Any:
    return CLASSES["ServerLiveResponse"](live=not service.engines.lost)


async def _server_ready(service: Service, request: Any, seconds: float) -> Any:
    return CLASSES["ServerReadyResponse"](ready=models.is_ready(service))


async def _server_metadata(service: Service, request: Any, seconds: float) -> Any:
    return CLASSES["ServerMetadataResponse"](**models.server_metadata())


async def _model_ready(service: Service, request: Any, seconds: float) -> Any:
    ready = models.is_model_ready(service, request.name, request.version)
    return CLASSES["ModelReadyResponse"](ready=ready)


async def _model_metadata(service: Service, request: Any, seconds: float) -> Any:
    found = models.model_metadata(service, _name(request.name), request.version)
    return CLASSES["ModelMetadataResponse"](**found)


async def _model_infer(service: Service, request: Any, seconds: float) -> Any:
    asked = await run_in_threadpool(request_of, request, service.config.limits.images)
    name = _name(request.model_name)
    found = await inferred(service, name, request.model_version, asked, seconds)
    raw = bool(request.raw_input_contents)
    return await run_in_threadpool(_response, name, asked, found, raw)


async def _index(service: Service, request: Any, seconds: float) -> Any:
    found = models.repository_index(service, request.ready)
    return CLASSES["RepositoryIndexResponse"](models=found)


async def _load(service: Service, request: Any, seconds: float) -> Any:
    models.refuse_parameters(request.parameters)
    await load_configured(service, _name(request.model_name))
    return CLASSES["RepositoryModelLoadResponse"]()


async def _unload(service: Service, request: Any, seconds: float) -> Any:
    await run_in_threadpool(service.engines.unload, _name(request.model_name))
    return CLASSES["RepositoryModelUnloadResponse"]()


async def _health(service: Service, request: Any, seconds: float) -> Any:
    """Of all engines, or of the one whose name is the service's."""
    if request.service in ("", SERVICE):
        ready = models.is_ready(service)
    elif request.service in service.config.engines:
        ready = models.is_model_ready(service, request.service, "")
    else:
        hint = f"use an engine's name, {SERVICE} or none"
        raise RequestError("service", "is unknown", hint, code="serve.unknown_engine")
    return HEALTH_CLASSES["HealthCheckResponse"](status=_SERVING if ready else _NOT_SERVING)


def _response(name: str, asked: InferRequest, answered: Answered, raw: bool) -> Any:
    tensors = output_tensors(answered, asked.outputs)
    return response_of(name, answered.version, asked.id, tensors, raw)


def _name(text: str) -> str:
    """Not the whole of a name that may have any length, as errors quote it."""
    return text[:MOST_NAME]


_ANSWERS: dict[str, tuple[Callable[[Service, Any, float], Awaitable[Any]], Role | None]] = {
    "ServerLive": (_server_live, None),
    "ServerReady": (_server_ready, None),
    "ServerMetadata": (_server_metadata, None),
    "ModelReady": (_model_ready, None),
    "ModelMetadata": (_model_metadata, "classify"),
    "ModelInfer": (_model_infer, "classify"),
    "RepositoryIndex": (_index, "classify"),
    "RepositoryModelLoad": (_load, "administer"),
    "RepositoryModelUnload": (_unload, "administer"),
}
METHODS = {
    f"{SERVICE}/{name}": Method(CLASSES[f"{name}Request"], answer, role)
    for name, (answer, role) in _ANSWERS.items()
} | {f"{HEALTH}.Health/Check": Method(HEALTH_CLASSES["HealthCheckRequest"], _health, None)}
