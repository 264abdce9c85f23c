"""One request's images through an engine: admitted, answered in time, counted."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar, Unpack

from medfocus.engine import Prediction
from medfocus.engine.io.images import ImageSource
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points
from medfocus.errors import DeviceError
from medfocus.serving.errors import RequestError
from medfocus.serving.monitoring import traces
from medfocus.serving.state import Service

T = TypeVar("T")


class Asked(TypedDict, total=False):
    """What a request asks of the engine; see `Engine.classify`."""

    boxes: Sequence[PerFrame[Box] | None] | None
    points: Sequence[PerFrame[Points] | None] | None
    embeddings: bool
    keep_masks: bool


@dataclass(frozen=True)
class Answered:
    """What an engine answered.

    Attributes:
        version: of the engine, see `ServedEngine`.
        classes: of the engine, in its order.
        predictions: as `Engine.classify` returns them.
    """

    version: str
    classes: Sequence[str]
    predictions: list[Prediction]


async def classified(
    service: Service,
    name: str,
    images: Sequence[ImageSource],
    seconds: float,
    **asked: Unpack[Asked],
) -> Answered:
    """What `Engine.classify` returns for the images of one request; every interface answers so.

    If this is cancelled, so is the engine's work.

    Args:
        service: that the request came to.
        name: of the engine.
        images: of the request.
        seconds: after which the work is cancelled.
        asked: see `Engine.classify`.

    Raises:
        RequestError: too many images or none (`serve.request`), or they were not answered in time
            (`serve.deadline`).
        InputError, BusyError: see `EngineRegistry.admitted`.
        DeviceError: the engine's backend failed; it is loaded again.
        MedfocusError: see `Engine.classify`.
    """
    most = service.config.limits.images
    if not 1 <= len(images) <= most:
        raise RequestError("request", f"has {len(images)} images", f"send 1 to {most}")
    with service.engines.admitted(name, len(images)) as served:
        observe = traces.describe_work(name, served.version, len(images))
        submitted = served.engine.submit(list(images), observe=observe, **asked)
        work = asyncio.wrap_future(submitted)
        predictions = await within(seconds, work)
        failure = served.engine.failure
    codes = [each.error.code if each.error else "" for each in predictions]
    traces.describe_errors([code for code in codes if code])
    if failure is not None and failure.code in codes:
        problem, hint = "failed while it worked on the request", "send the request again"
        raise DeviceError(f"engine {name}", problem, hint, code=failure.code)
    for code in codes:
        service.metrics.image(name, code)
    return Answered(served.version, served.engine.manifest.classes, predictions)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await work for a request, and cancel it after some seconds.

    Raises:
        RequestError: it was not done in time (`serve.deadline`).
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        problem = f"was not answered within {seconds:g} s"
        hint = "send fewer images, or allow it more time"
        raise RequestError("request", problem, hint, code="serve.deadline") from None
