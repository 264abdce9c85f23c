"""A caller's sources through the pipeline: read ahead, submitted together, answered in order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medfocus.engine.images import ImageSource, SourceImage, read_images
from medfocus.engine.memory import is_out_of_memory, no_memory_for
from medfocus.engine.pipeline import Pipeline
from medfocus.engine.prompts import Box, Points, own_prompt
from medfocus.engine.slot import Answer, Job
from medfocus.errors import ImageError, MedfocusError, fresh
from medfocus.settings import Prompts

CHUNK_BYTES = 2**28  # of decoded images that are submitted together
READ_AHEAD = 8  # sources that are read before they are needed


@dataclass(frozen=True, eq=False)
class Request:
    """One source, and the caller's prompt for it."""

    source: ImageSource
    box: Box | None = None
    points: Points | None = None


class Response(NamedTuple):
    """An image that is answered, or a source that could not be read.

    Attributes:
        number: of the request, from 0.
        source: the file or name that it came from, with "#frame" where that holds several.
        image_size: height and width in pixels; None where it could not be read.
        warnings: what was done to the image when it was read.
        answer: what the graphs say, or the error; done once `respond` yields it.
    """

    number: int
    source: str
    image_size: tuple[int, int] | None
    warnings: tuple[str, ...]
    answer: "Future[Answer]"


class _Reading(NamedTuple):
    number: int
    request: Request
    name: str
    images: "Future[list[SourceImage]]"


def respond(
    pipeline: Pipeline, requests: Iterable[Request], prompts: Prompts, batch_size: int
) -> Iterator[Response]:
    """Answer requests in their order, an item for each image of each.

    What is wrong with one request is its answer. Where the iterable itself raises, all that came
    before is answered first. The work goes on while the caller has the generator wait; when it is
    closed, what has not begun is given up.

    Args:
        pipeline: what answers.
        requests: pulled in the caller's thread, no faster than the pipeline takes them.
        prompts: for requests that bring none.
        batch_size: images that are submitted together.
    """
    pending: deque[Response] = deque()
    chunk: list[Job] = []
    failure: Exception | None = None
    try:
        try:
            for response, job in _read_ahead(pipeline, requests, prompts):
                pending.append(response)
                if job is not None:
                    chunk.append(job)
                del job  # its image must not outlive its answer
                crowded = len(pending) > pipeline.room + batch_size
                if crowded or len(chunk) == batch_size or _nbytes(chunk) >= CHUNK_BYTES:
                    pipeline.submit(chunk)
                    chunk = []
                while pending and (crowded or pending[0].answer.done()):
                    pending[0].answer.exception()  # waits
                    yield pending.popleft()
                    crowded = len(pending) > pipeline.room + batch_size
        except Exception as error:
            failure = error
        pipeline.submit(chunk)
        chunk = []
        while pending:
            pending[0].answer.exception()  # waits
            yield pending.popleft()
    finally:
        for response in pending:
            response.answer.cancel()
    if failure is not None:
        raise failure


def _read_ahead(
    pipeline: Pipeline, requests: Iterable[Request], prompts: Prompts
) -> Iterator[tuple[Response, Job | None]]:
    reading: deque[_Reading] = deque()
    failure: Exception | None = None
    try:
        for number, request in enumerate(requests):
            reading.append(_begin(pipeline, number, request))
            while reading and (reading[0].images.done() or _far_enough(reading)):
                yield from _frames(reading.popleft(), prompts)
    except Exception as error:
        failure = error
    while reading:
        yield from _frames(reading.popleft(), prompts)
    if failure is not None:
        raise failure


def _begin(pipeline: Pipeline, number: int, request: Request) -> _Reading:
    """Files are read by the pipeline's threads; what is in memory at once, before it can change."""
    source = request.source
    if isinstance(source, str | Path):
        name = os.fspath(source)
        return _Reading(number, request, name, pipeline.read(read_images, source, name))
    name = f"item {number}"
    images: Future[list[SourceImage]] = Future()
    try:
        images.set_result(read_images(source, name))
    except Exception as error:
        images.set_exception(error)
    return _Reading(number, request, name, images)


def _frames(reading: _Reading, prompts: Prompts) -> Iterator[tuple[Response, Job | None]]:
    number, request, name, images = reading
    try:
        frames = images.result()
    except Exception as error:
        yield _failed(number, name, error), None
        return
    frames.reverse()
    while frames:
        image = frames.pop()  # a page that was submitted must not be kept for the others' sake
        size = image.pixels.shape[0], image.pixels.shape[1]
        try:
            own = request.box is not None or request.points is not None
            prompt = (
                own_prompt(request.box, request.points, *size, image.source) if own else prompts
            )
        except MedfocusError as error:
            yield _failed(number, image.source, error), None
        else:
            job = Job(image, prompt)
            yield Response(number, image.source, size, image.warnings, job.answer), job


def _failed(number: int, name: str, error: Exception) -> Response:
    if isinstance(error, MedfocusError):
        error = fresh(error)
    elif is_out_of_memory(error):
        error = no_memory_for(name, "read", error)
    else:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        error = ImageError(name, problem, "check the file, or report this")
    answer: Future[Answer] = Future()
    answer.set_exception(error)
    return Response(number, name, None, (), answer)


def _far_enough(reading: Sequence[_Reading]) -> bool:
    """Whether enough was read ahead, in number or in bytes."""
    ready = [item.images for item in reading if item.images.done() and not item.images.exception()]
    held = sum(image.pixels.nbytes for images in ready for image in images.result())
    return len(reading) > READ_AHEAD or held >= CHUNK_BYTES


def _nbytes(jobs: list[Job]) -> int:
    return sum(job.image.pixels.nbytes for job in jobs)
