"""Streaming a caller's sources through the pipeline: read ahead, batch, yield in order."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medfocus.engine.io.images import ImageSource, SourceImage, read_images
from medfocus.engine.io.notices import Notice
from medfocus.engine.preprocess.prompts import Box, Points, own_prompt
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.engine.runtime.memory import is_out_of_memory, no_memory_for
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.errors import ImageError, MedfocusError, without_traceback
from medfocus.settings import Prompts

CHUNK_BYTES = 2**28  # of decoded images that are submitted together
READ_AHEAD = 8  # sources read before they are needed


@dataclass(frozen=True, eq=False)
class PromptedSource:
    """One source, and the caller's prompt for it."""

    source: ImageSource
    box: Box | None = None
    points: Points | None = None


class PendingPrediction(NamedTuple):
    """An image whose outputs are pending, or a source that could not be read.

    Attributes:
        number: index of the source, from 0.
        source: the file or name that the image came from, with "#frame" if that holds several.
        image_size: height and width in pixels; None if the source could not be read.
        warnings: how the image was altered when it was read.
        future: the graphs' outputs, or the error; done once `stream_sources` yields it.
    """

    number: int
    source: str
    image_size: tuple[int, int] | None
    warnings: tuple[Notice, ...]
    future: "Future[GraphOutputs]"


class _Reading(NamedTuple):
    number: int
    item: PromptedSource
    name: str
    images: "Future[list[SourceImage]]"


def stream_sources(
    pipeline: Pipeline, prompted: Iterable[PromptedSource], prompts: Prompts, batch_size: int
) -> Generator[PendingPrediction, None, None]:
    """Run sources through the pipeline and yield, in their order, one item per image.

    A source that cannot be read yields one item with its error. If the iterable raises, the items
    of all earlier sources are yielded first. The pipeline keeps working between `next` calls;
    closing the generator cancels pending work.

    Args:
        pipeline: what runs the graphs.
        prompted: pulled in the caller's thread, no faster than the pipeline takes them.
        prompts: for sources that have none of their own.
        batch_size: images that are submitted together.
    """
    pending: deque[PendingPrediction] = deque()
    chunk: list[ImageRequest] = []
    failure: Exception | None = None
    try:
        try:
            for prediction, request in _read_ahead(pipeline, prompted, prompts):
                pending.append(prediction)
                if request is not None:
                    chunk.append(request)
                del request  # its image must not outlive its prediction
                crowded = len(pending) > pipeline.room + batch_size
                if crowded or len(chunk) == batch_size or _nbytes(chunk) >= CHUNK_BYTES:
                    pipeline.submit(chunk)
                    chunk = []
                while pending and (crowded or pending[0].future.done()):
                    pending[0].future.exception()  # waits
                    yield pending.popleft()
                    crowded = len(pending) > pipeline.room + batch_size
        except Exception as error:
            failure = error
        pipeline.submit(chunk)
        chunk = []
        while pending:
            pending[0].future.exception()  # waits
            yield pending.popleft()
    finally:
        for prediction in pending:
            prediction.future.cancel()
    if failure is not None:
        raise failure


def _read_ahead(
    pipeline: Pipeline, prompted: Iterable[PromptedSource], prompts: Prompts
) -> Iterator[tuple[PendingPrediction, ImageRequest | None]]:
    reading: deque[_Reading] = deque()
    failure: Exception | None = None
    try:
        for number, item in enumerate(prompted):
            reading.append(_begin(pipeline, number, item))
            while reading and (reading[0].images.done() or _far_enough(reading)):
                yield from _frames(reading.popleft(), prompts)
    except Exception as error:
        failure = error
    while reading:
        yield from _frames(reading.popleft(), prompts)
    if failure is not None:
        raise failure


def _begin(pipeline: Pipeline, number: int, item: PromptedSource) -> _Reading:
    """Read files in the worker pool; copy in-memory images now, before the caller changes them."""
    source = item.source
    if isinstance(source, str | Path):
        name = os.fspath(source)
        return _Reading(number, item, name, pipeline.read(read_images, source, name))
    name = f"item {number}"
    images: Future[list[SourceImage]] = Future()
    try:
        images.set_result(read_images(source, name))
    except Exception as error:
        images.set_exception(error)
    return _Reading(number, item, name, images)


def _frames(
    reading: _Reading, prompts: Prompts
) -> Iterator[tuple[PendingPrediction, ImageRequest | None]]:
    number, item, name, images = reading
    try:
        frames = images.result()
    except Exception as error:
        yield _failed(number, name, error), None
        return
    frames.reverse()
    while frames:
        image = frames.pop()  # so that a submitted page is freed before the last one is done
        size = image.pixels.shape[0], image.pixels.shape[1]
        try:
            own = item.box is not None or item.points is not None
            prompt = own_prompt(item.box, item.points, *size, image.source) if own else prompts
        except MedfocusError as error:
            yield _failed(number, image.source, error), None
        else:
            request = ImageRequest(image, prompt)
            yield (
                PendingPrediction(number, image.source, size, image.warnings, request.future),
                request,
            )


def _failed(number: int, name: str, error: Exception) -> PendingPrediction:
    if isinstance(error, MedfocusError):
        error = without_traceback(error)
    elif is_out_of_memory(error):
        error = no_memory_for(name, "read", error)
    else:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        error = ImageError(name, problem, "check the file, or report this")
    future: Future[GraphOutputs] = Future()
    future.set_exception(error)
    return PendingPrediction(number, name, None, (), future)


def _far_enough(reading: Sequence[_Reading]) -> bool:
    """Whether enough was read ahead, in number or in bytes."""
    ready = [item.images for item in reading if item.images.done() and not item.images.exception()]
    held = sum(image.pixels.nbytes for images in ready for image in images.result())
    return len(reading) > READ_AHEAD or held >= CHUNK_BYTES


def _nbytes(requests: list[ImageRequest]) -> int:
    return sum(request.image.pixels.nbytes for request in requests)
