"""The pipeline with arithmetic in place of networks: whole numbers, delays, poisoned buffers."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from medfocus.engine.images import SourceImage
from medfocus.engine.pipeline import Pipeline
from medfocus.engine.requests import Request, Response, respond
from medfocus.engine.slot import Answer, Job
from medfocus.engine.streams import Stream, ThreadStream
from medfocus.errors import DeviceError, ImageError
from medfocus.settings import Prompts

POISON = -(10**9)
MISSING = 14  # an image of this grey level is a file that is not there
UNFIT = 13  # an image of this grey level cannot be prepared
PROMPTS = Prompts((((0.5, 0.5),),), ((1,),))


def expected(value: int) -> int:
    """What an image of grey level `value` must be answered with."""
    return 5 * (3 * value + 1) + 7 * value


def picture(value: int) -> np.ndarray:
    return np.full((1, 1, 3), value, np.uint8)


def job(value: int, prompts: Prompts = PROMPTS) -> Job:
    return Job(SourceImage(picture(value), f"grey {value}"), prompts)


@dataclass
class Script:
    """What is to happen: how long things take, and what fails.

    Attributes:
        seed: of the delays; None for none.
        fails: called with a stage's name and its batch's grey levels before it runs; may raise.
        batches: the grey levels of each batch that was begun.
    """

    seed: int | None = None
    fails: Callable[[str, list[int]], None] = lambda stage, values: None
    batches: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def delay(self) -> None:
        if self.seed is not None:
            time.sleep(self._random.choice((0, 0, 0, 5e-5, 2e-4, 1e-3)))


class ScriptedSlot:
    """Every stage reads what the one before wrote; whoever comes too early reads poison."""

    def __init__(self, script: Script, count: int) -> None:
        self._script = script
        self._images, self._masks, self._answers = np.full((3, count), POISON)

    @property
    def nbytes(self) -> int:
        return self._images.nbytes * 3

    def begin(self, jobs: Sequence[Job]) -> None:
        for buffer in (self._images, self._masks, self._answers):
            buffer[:] = POISON
        self._values = [int(job.image.pixels[0, 0, 0]) for job in jobs]
        self._script.batches.append(self._values)

    def fill(self, row: int) -> None:
        self._script.delay()
        if self._values[row] == UNFIT:
            raise ImageError("grey 13", "cannot be prepared", "use another")
        self._images[row] = self._values[row]

    def segment(self) -> None:
        self._run("segment")
        self._masks[:] = 3 * self._images + 1

    def classify(self) -> None:
        self._run("classify")
        self._answers[:] = 5 * self._masks + 7 * self._images

    def answer(self, row: int) -> Answer:
        self._script.delay()
        nothing = np.zeros((1, 1), np.float32)
        return Answer(self._answers[row : row + 1].copy(), False, 0.0, nothing, nothing)

    def end(self) -> None:
        self._values = []

    def _run(self, stage: str) -> None:
        self._script.delay()
        self._script.fails(stage, self._values)


def pipeline(
    script: Script,
    *,
    slots: int = 2,
    max_batch: int = 4,
    streams: tuple[Stream, Stream] | None = None,
    threads: int = 2,
    max_wait: float = 0.0,
    most_bytes: int = 2**20,
) -> Pipeline:
    """A pipeline of scripted slots; two worker threads as streams unless others are given."""
    segment, classify = streams or (ThreadStream("segment"), ThreadStream("classify"))
    ring = [ScriptedSlot(script, max_batch) for _ in range(slots)]
    return Pipeline(
        ring,
        segment,
        classify,
        max_batch=max_batch,
        max_wait=max_wait,
        threads=threads,
        most_bytes=most_bytes,
    )


def requests(values: list[int]) -> Iterator[Request]:
    for value in values:
        source = f"no-{value}.png" if value == MISSING else picture(value)
        yield Request(source, points=[(0, 0), (0, 0)] if value % 5 == 4 else None)


def check(response: Response, value: int) -> None:
    """The answer of the sequential run; a DeviceError too where a backend has died."""
    if isinstance(response.answer.exception(), DeviceError):
        assert "illegal memory access" in str(response.answer.exception())
    elif value in (UNFIT, MISSING):
        assert isinstance(response.answer.exception(), ImageError)
    else:
        assert response.answer.result().probabilities.tolist() == [expected(value)]


def stream_and_check(subject: Pipeline, values: list[int], batch_size: int) -> None:
    responses = list(respond(subject, requests(values), PROMPTS, batch_size))
    assert [response.number for response in responses] == list(range(len(values)))
    for response, value in zip(responses, values, strict=True):
        check(response, value)


def within(seconds: float, work: Callable[[], object]) -> None:
    """Run `work` in a thread; fail if it does not end, and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still running after {seconds} s"
    if raised:
        raise raised[0]


def stop_and_check(
    subject: Pipeline, values: list[int], batch_size: int, ending: str, at: int
) -> None:
    """A stream that does not come to its end: its consumer stops, or its iterable raises."""

    def broken() -> Iterator[Request]:
        yield from requests(values[:at])
        raise KeyboardInterrupt if ending == "interrupt" else OSError

    if ending == "stop":
        responses = respond(subject, requests(values), PROMPTS, batch_size)
        for value in values[:at]:
            check(next(responses), value)
        responses.close()
        return
    answered: list[Response] = []
    responses = respond(subject, broken(), PROMPTS, batch_size)
    with pytest.raises((KeyboardInterrupt, OSError)):
        [answered.append(response) for response in responses]
    assert ending == "interrupt" or len(answered) == len(values[:at])
    for response, value in zip(answered, values, strict=False):
        check(response, value)


def run_and_check(drawn: dict, kind: type[ThreadStream] = ThreadStream) -> None:
    """Every caller's stream, from its own thread, against the sequential run.

    Where `drawn` has `endings`, one a caller, some stop early; where it has a stage that `dies`,
    the backend fails there at the grey level 7, and from then on all get a typed error.
    """
    dies = drawn.get("dies")

    def fails(stage: str, values: list[int]) -> None:
        if dies == stage and 7 in values:
            raise RuntimeError("an illegal memory access was encountered")
        if drawn["out_of_memory"] and stage == "classify" and len(values) > 2:
            raise MemoryError

    segment = kind("segment")
    subject = pipeline(
        Script(drawn["seed"], fails),
        slots=drawn["slots"],
        max_batch=drawn["max_batch"],
        streams=(segment, segment if drawn["one_stream"] else kind("classify")),
        threads=drawn["threads"],
        max_wait=drawn["max_wait"],
        most_bytes=drawn["most_bytes"],
    )
    try:
        within(20, lambda: _call(subject, drawn))
        if subject.failure is None:
            within(20, lambda: stream_and_check(subject, [1, 2, 3], drawn["batch_size"]))
        assert subject.stats().waiting == subject.stats().waiting_bytes == 0
    finally:
        within(20, subject.close)


def _call(subject: Pipeline, drawn: dict) -> None:
    """Each caller from its own thread."""
    callers, size = drawn["callers"], drawn["batch_size"]
    endings = drawn.get("endings") or [("all", 0)] * len(callers)
    with ThreadPoolExecutor(len(callers)) as pool:
        calls = [
            pool.submit(stream_and_check, subject, values, size)
            if ending == "all"
            else pool.submit(stop_and_check, subject, values, size, ending, at)
            for values, (ending, at) in zip(callers, endings, strict=False)
        ]
        for call in calls:
            call.result()
