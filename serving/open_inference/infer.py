"""Answers a request's tensors with an engine's predictions, over HTTP and gRPC alike."""

from medfocus.serving.inference import Answered, classified
from medfocus.serving.open_inference.inputs import InferRequest
from medfocus.serving.open_inference.models import check_version
from medfocus.serving.state import Service


async def inferred(
    service: Service, name: str, version: str, request: InferRequest, seconds: float
) -> Answered:
    """What an engine answers.

    Args:
        service: that the request came to.
        name: of the engine.
        version: that must answer; "" for whichever does.
        request: its images, and what is asked of them.
        seconds: after which the work is cancelled, unless the request itself allows less.

    Raises:
        RequestError: the engine has another version (`serve.unknown_version`).
        MedfocusError: see `classified`.
    """
    for served in service.engines.ready():  # before the work
        if served.name == name:
            check_version(name, version, served.version)
    answered = await classified(
        service,
        name,
        request.images,
        min(seconds, request.seconds or seconds),
        boxes=request.boxes,
        points=request.points,
        embeddings="embedding" in request.outputs,
        keep_masks="mask" in request.outputs,
    )
    check_version(name, version, answered.version)  # it may have been replaced since
    return answered
