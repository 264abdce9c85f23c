"""Streaming a caller's sources through the pipeline: read ahead, submitted, yielded in order.

A thread of the stream's own pulls the sources, so that an answer is yielded when it is ready,
whatever the iterable does next. Images are submitted as they are read: what holds memory for a
decoded image waits neither for other images nor for the caller, so that there is no deadlock.
"""

import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from medfocus.engine.io.image_file import frame_name, open_path
from medfocus.engine.io.images import ImageSource, InMemoryImage, SourceImage, converted, named
from medfocus.engine.io.in_memory import InMemoryFile, copied
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.reading.open_file import OpenFile
from medfocus.engine.preprocess.prompts import Box, PerFrame, Points, own_prompt
from medfocus.engine.runtime.image_request import MASKS_ONLY, GraphOutputs, ImageRequest, Kept
from medfocus.engine.runtime.memory import is_out_of_memory, no_memory_for
from medfocus.engine.runtime.metrics import Span
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.errors import ImageError, InputError, MedfocusError, without_traceback
from medfocus.settings import Prompts

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class PromptedSource:
    """One source, and the caller's prompts for it.

    Attributes:
        source: what the caller gave.
        box: of `own_prompt`.
        points: of `own_prompt`.
        name: in errors and results; None for its path, or its number.
    """

    source: ImageSource
    box: PerFrame[Box] | None = None
    points: PerFrame[Points] | None = None
    name: str | None = None


def source_name(source: ImageSource, number: int) -> str:
    """A source's name in errors and results: its path, or its number among the sources."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"item {number}"


class PendingPrediction(NamedTuple):
    """An image whose outputs are pending, or a source that could not be read.

    Attributes:
        number: index of the source, from 0.
        source: the file or name that the image came from, with "#frame" if that holds several.
        image_size: height and width in pixels; None if the source could not be read.
        warnings: how the image was altered when it was read.
        future: the graphs' outputs, or the error; done once `stream_sources` yields it.
        spans: the work on it so far; all of it once the future is done.
    """

    number: int
    source: str
    image_size: tuple[int, int] | None
    warnings: tuple[Notice, ...]
    future: "Future[GraphOutputs]"
    spans: Sequence[Span] = ()


Steps = Generator["Future[Any] | PendingPrediction", None, None]


class _Read(NamedTuple):
    frames: int  # that the source holds, as far as is known
    prediction: PendingPrediction


@dataclass(eq=False)
class _Source:
    number: int
    name: str
    box: PerFrame[Box] | None
    points: PerFrame[Points] | None
    file: OpenFile | None = None
    reads: "deque[Future[_Read]]" = field(default_factory=deque)  # begun, and not yet answered


def stream_sources(
    pipeline: Pipeline,
    prompted: Iterable[PromptedSource],
    prompts: Prompts,
    batch_size: int,
    count: int | None = None,
    kept: Kept = MASKS_ONLY,
) -> Generator[PendingPrediction, None, None]:
    """Run sources through the pipeline and yield, in their order, one item per image.

    A source that cannot be read yields one item with its error. If the iterable raises, the items
    of all earlier sources are yielded first. The pipeline keeps working between `next` calls;
    closing the generator cancels pending work.

    Args:
        pipeline: what runs the graphs.
        prompted: pulled in a thread of its own, no faster than the pipeline takes them.
        prompts: for sources that have none of their own.
        batch_size: images that are read ahead of those that are under way.
        count: number of sources, if it is known: the first batch then waits for more of them.
        kept: which outputs of each image the caller wants.
    """
    stream = _Stream(pipeline, prompts, kept, pipeline.room + batch_size, count or 0)
    threading.Thread(
        target=stream.pull, args=(iter(prompted),), name="medfocus-sources", daemon=True
    ).start()
    del prompted
    try:
        while (source := stream.pulled.get()) is not None:
            for item in stream.answers(source):
                if isinstance(item, Future):
                    item.exception()  # waits
                else:
                    yield item
        if stream.failure is not None:
            raise stream.failure
    finally:
        stream.stop()


def answer_in_steps(
    pipeline: Pipeline,
    prompted: Iterable[PromptedSource],
    prompts: Prompts,
    batch_size: int,
    count: int,
    kept: Kept,
) -> Steps:
    """As `stream_sources`, but nobody waits: it yields each future that it has to wait for.

    It is to be continued once that is done. There is no thread that pulls the sources, so that
    none of them may wait for the answer to an earlier one. The calls that go on at the same time
    share what one alone reads ahead: each open source takes a file descriptor.
    """
    width = pipeline.room + batch_size
    stream = _Stream(pipeline, prompts, kept, width, count)
    numbered = enumerate(prompted)
    del prompted
    try:
        while True:
            share = math.ceil(width / max(pipeline.calls.begun, 1))
            stream.begin_next(numbered, max(share - stream.pulled.qsize(), 0))
            if stream.pulled.empty():
                break
            source = stream.pulled.get()
            assert source is not None
            yield from stream.answers(source)
            del source
    finally:
        stream.stop()
        stream.expect_no_more()


class _Stream:
    """What one call of `stream_sources` or `answer_in_steps` has under way.

    Attributes:
        pulled: the sources in their order; for `stream_sources` then None.
        failure: what the iterable raised.
    """

    def __init__(
        self, pipeline: Pipeline, prompts: Prompts, kept: Kept, width: int, count: int
    ) -> None:
        self._pipeline, self._prompts, self._kept, self._width = pipeline, prompts, kept, width
        self.pulled: SimpleQueue[_Source | None] = SimpleQueue()
        self.failure: BaseException | None = None
        self._window = threading.Semaphore(width)  # sources that may be pulled
        self._sources: deque[_Source] = deque()  # pulled, and not yet answered
        self._stopped = False
        self._expected = count  # sources that are announced to the pipeline, and not yet pulled
        pipeline.announce(count)

    def pull(self, prompted: Iterator[PromptedSource]) -> None:
        """Pull sources and begin to read each, as far ahead as the window allows."""
        try:
            for number in itertools.count():
                self._window.acquire()
                item = None if self._stopped else next(prompted, None)
                if item is None:
                    break
                self._begin(number, item)
                del item  # an image that waits for nothing must not be kept
        except BaseException as error:
            self.failure = error
        self.expect_no_more()
        self.pulled.put(None)

    def begin_next(self, numbered: Iterator[tuple[int, PromptedSource]], count: int) -> None:
        """Begin to read as many more sources as there are."""
        for number, item in itertools.islice(numbered, count):
            self._begin(number, item)

    def expect_no_more(self) -> None:
        """Take back that more sources will come."""
        self._pipeline.announce(-self._expected)
        self._expected = 0

    def answers(self, source: _Source) -> Steps:
        """One item per image of a source, of which as many are read ahead as of sources.

        Then one with an error per prompt for an image that the source does not hold. What is to be
        waited for is yielded before: the caller continues once that is done.
        """
        index, begun, frames = 0, 1, 1
        while index < frames:
            yield source.reads[0]
            frames, prediction = source.reads[0].result()
            while begun < min(frames, index + self._width):
                self._pipeline.announce(1)
                source.reads.append(self._read(source, begun))
                begun += 1
            yield prediction.future
            if self.failure is not None and not isinstance(self.failure, Exception):
                raise self.failure  # an interrupt comes at once
            source.reads.popleft()
            yield prediction
            index += 1
        if frames > 1 or prediction.future.exception() is None:
            yield from _without_image(source, frames)
        self._sources.popleft()
        self._cancel(source)
        self._window.release()

    def stop(self) -> None:
        """Cancel what is pending, and pull no more sources."""
        self._stopped = True
        self._window.release()
        with suppress(IndexError):
            while True:
                self._cancel(self._sources.popleft())

    def _begin(self, number: int, item: PromptedSource) -> None:
        if self._expected:
            self._expected -= 1
        else:
            self._pipeline.announce(1)
        given = item.source
        name = item.name or source_name(given, number)
        source = _Source(number, name, item.box, item.points)
        try:
            if isinstance(given, str | os.PathLike):
                source.file = OpenFile(name, open_path(Path(name), name))
                # So that a slow disk reads many files at once, and not as many as processes decode.
                os.posix_fadvise(source.file.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                read = self._read(source, 0)
            elif isinstance(given, InMemoryFile):
                source.file = OpenFile(name, copied(given, name))
                read = self._read(source, 0)
            else:
                read = self._converted(source, given)
        except Exception as error:
            self._pipeline.announce(-1)
            read = _done(source, error)
        source.reads.append(read)
        self._sources.append(source)
        self.pulled.put(source)
        if self._stopped:
            self.stop()

    def _converted(self, source: _Source, given: InMemoryImage) -> "Future[_Read]":
        """Copy an image in memory now, before the caller changes it."""
        try:
            image = converted(given, source.name)
            request = self._request(source, image, 0)
            self._pipeline.submit([request])
        except Exception as error:
            return _done(source, error)
        finally:
            self._pipeline.announce(-1)
        read: Future[_Read] = Future()
        read.set_result(_Read(1, _pending(source, request)))
        return read

    def _read(self, source: _Source, index: int) -> "Future[_Read]":
        try:
            spans: list[Span] = []
            return self._pipeline.read(partial(self._read_frame, source, index, spans), spans)
        except MedfocusError as error:  # closed in the meantime
            self._pipeline.announce(-1)
            return _done(source, error)

    def _read_frame(
        self, source: _Source, index: int, spans: list[Span], admit: Callable[[int], None]
    ) -> _Read:
        """Read one image of a file, and submit it."""
        budget, held, frames = self._pipeline.budget, 0, index + 1

        def admitted(count: int) -> None:
            nonlocal held
            admit(count)
            held = count

        try:
            assert source.file is not None
            with source.file:
                frames, outcome = self._pipeline.reader.read(source.file, index, admitted)
            if isinstance(outcome, MedfocusError):
                return _Read(frames, _failed(source, outcome, spans))
            name = frame_name(source.name, index, frames)
            request = self._request(source, named(outcome, name), index)
            request.spans = spans
            budget.release(held - outcome.pixels.nbytes)
            held = 0
            self._pipeline.submit_admitted([request])
            return _Read(frames, _pending(source, request))
        except Exception as error:
            return _Read(frames, _failed(source, error, spans))
        finally:
            budget.release(held)
            self._pipeline.announce(-1)

    def _request(self, source: _Source, image: SourceImage, index: int) -> ImageRequest:
        box, points = _of_frame(source.box, index), _of_frame(source.points, index)
        if box is None and points is None:
            return ImageRequest(image, self._prompts, self._kept)
        height, width = image.pixels.shape[:2]
        own = own_prompt(box, points, height, width, image.source)
        return ImageRequest(image, own, self._kept)

    def _cancel(self, source: _Source) -> None:
        for read in source.reads:
            if read.cancel():
                self._pipeline.announce(-1)
            else:
                read.add_done_callback(lambda read: read.result().prediction.future.cancel())
        if source.file is not None:
            source.file.close()


def _of_frame(prompt: PerFrame[_T] | None, index: int) -> _T | None:
    return prompt.get(index) if isinstance(prompt, Mapping) else prompt


def _without_image(source: _Source, frames: int) -> Iterator[PendingPrediction]:
    for kind, prompts in (("box", source.box), ("points", source.points)):
        given = prompts.keys() if isinstance(prompts, Mapping) else ()
        for frame in sorted(set(given) - {*range(frames)}, key=str):
            name = f"{source.name}#{frame}"
            problem = f"is for an image of {frames} that are there, numbered from 0"
            hint = "correct the number, or leave it out"
            error = InputError(f"{kind} of {name}", problem, hint, code="input.prompt_unused")
            yield _failed(source, error)._replace(source=name)


def _pending(source: _Source, request: ImageRequest) -> PendingPrediction:
    image = request.image
    size = image.pixels.shape[0], image.pixels.shape[1]
    return PendingPrediction(
        source.number, image.source, size, image.warnings, request.future, request.spans
    )


def _done(source: _Source, error: Exception) -> "Future[_Read]":
    read: Future[_Read] = Future()
    read.set_result(_Read(1, _failed(source, error)))
    return read


def _failed(source: _Source, error: Exception, spans: Sequence[Span] = ()) -> PendingPrediction:
    if isinstance(error, MedfocusError):
        error = without_traceback(error)
    elif is_out_of_memory(error):
        error = no_memory_for(source.name, "read", error)
    else:  # its text may quote the file
        problem = f"cannot be read ({type(error).__name__})"
        error = ImageError(source.name, problem, "check the file, or report this")
    future: Future[GraphOutputs] = Future()
    future.set_exception(error)
    return PendingPrediction(source.number, source.name, None, (), future, spans)
