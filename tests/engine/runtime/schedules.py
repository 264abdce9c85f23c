"""The pipeline with integer arithmetic in place of networks, random delays, poisoned buffers."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.execution import Stream, ThreadStream
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, stream_sources
from medfocus.errors import DeviceError, ImageError
from medfocus.settings import Prompts

DEADLINE = 120.0  # seconds; only a deadlock takes so long, even on a busy machine
POISON = -(10**9)
MISSING = 14  # an image of this grey level is a file that does not exist
UNFIT = 13  # an image of this grey level cannot be preprocessed
PROMPTS = Prompts((((0.5, 0.5),),), ((1,),))


def expected(value: int) -> int:
    """The output that an image of grey level `value` must have."""
    return 5 * (3 * value + 1) + 7 * value


def picture(value: int) -> np.ndarray:
    return np.full((1, 1, 3), value, np.uint8)


def request(value: int, prompts: Prompts = PROMPTS) -> ImageRequest:
    return ImageRequest(SourceImage(picture(value), f"grey {value}"), prompts)


@dataclass
class Script:
    """What happens in a run: how long each step takes, and what fails.

    Attributes:
        seed: of the delays; None for no delays.
        fails: called with a stage's name and its batch's grey levels before it runs; may raise.
        prepares_late: images are preprocessed only once their batch was segmented, which a stream
            that respects dependencies never allows.
        batches: the grey levels of each batch that was begun.
    """

    seed: int | None = None
    fails: Callable[[str, list[int]], None] = lambda stage, values: None
    prepares_late: bool = False
    batches: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._changed = threading.Condition()

    def begin(self, values: list[int]) -> None:
        with self._changed:
            self.batches.append(values)
            self._changed.notify_all()

    def wait_for_batches(self, count: int) -> None:
        """Block until `count` batches have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, DEADLINE)

    def delay(self) -> None:
        if self.seed is not None:
            time.sleep(self._random.choice((0, 0, 0, 5e-5, 2e-4, 1e-3)))


class ScriptedBuffers:
    """Every stage reads what the one before wrote; a stage that runs too early reads poison."""

    def __init__(self, script: Script, count: int) -> None:
        self._script = script
        self._images, self._masks, self._answers = np.full((3, count), POISON)
        self._segmented = threading.Event()

    @property
    def nbytes(self) -> int:
        return self._images.nbytes * 3

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        for buffer in (self._images, self._masks, self._answers):
            buffer[:] = POISON
        self._values = [int(request.image.pixels[0, 0, 0]) for request in requests]
        self._segmented.clear()
        self._script.begin(self._values)

    def prepare(self, row: int) -> None:
        self._script.delay()
        if self._script.prepares_late:
            assert self._segmented.wait(DEADLINE)
        if self._values[row] == UNFIT:
            raise ImageError("grey 13", "cannot be prepared", "use another image")
        self._images[row] = self._values[row]

    def segment(self) -> None:
        self._run("segment")
        self._masks[:] = 3 * self._images + 1
        self._segmented.set()

    def classify(self) -> None:
        self._run("classify")
        self._answers[:] = 5 * self._masks + 7 * self._images

    def outputs(self, row: int) -> GraphOutputs:
        self._script.delay()
        nothing = np.zeros((1, 1), np.float32)
        return GraphOutputs(self._answers[row : row + 1].copy(), False, 0.0, nothing, nothing)

    def end(self) -> None:
        self._values = []

    def _run(self, stage: str) -> None:
        self._script.delay()
        self._script.fails(stage, self._values)


def pipeline(
    script: Script,
    *,
    batches: int = 2,
    max_batch: int = 4,
    streams: tuple[Stream, Stream] | None = None,
    threads: int = 2,
    max_wait: float = 0.0,
    most_bytes: int = 2**20,
) -> Pipeline:
    """A pipeline of scripted buffers, on two thread streams unless others are given."""
    segment, classify = streams or (ThreadStream("segment"), ThreadStream("classify"))
    return Pipeline(
        [ScriptedBuffers(script, max_batch) for _ in range(batches)],
        segment,
        classify,
        max_batch=max_batch,
        max_wait=max_wait,
        threads=threads,
        most_bytes=most_bytes,
    )


def prompted(values: list[int]) -> Iterator[PromptedSource]:
    for value in values:
        source = f"no-{value}.png" if value == MISSING else picture(value)
        yield PromptedSource(source, points=[(0, 0), (0, 0)] if value % 5 == 4 else None)


def check(prediction: PendingPrediction, value: int) -> None:
    """The outcome of the sequential run, or the DeviceError of a backend that failed."""
    error = prediction.future.exception()
    if isinstance(error, DeviceError):
        assert "illegal memory access" in error.problem
    elif value in (UNFIT, MISSING):
        assert isinstance(error, ImageError)
    else:
        assert prediction.future.result().probabilities.tolist() == [expected(value)]


def stream_and_check(subject: Pipeline, values: list[int], batch_size: int) -> None:
    predictions = list(stream_sources(subject, prompted(values), PROMPTS, batch_size))
    assert [prediction.number for prediction in predictions] == list(range(len(values)))
    for prediction, value in zip(predictions, values, strict=True):
        check(prediction, value)


def in_time(work: Callable[[], object]) -> None:
    """Run `work` in a thread; fail if it does not end by `DEADLINE`, and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), f"still running after {DEADLINE} s"
    if raised:
        raise raised[0]


def collect(stream: Iterator[PendingPrediction], received: list[PendingPrediction]) -> None:
    """Append what the stream yields; if it raises, what it yielded before is kept."""
    for prediction in stream:
        received.append(prediction)


def stop_and_check(
    subject: Pipeline, values: list[int], batch_size: int, ending: str, at: int
) -> None:
    """A stream that is not exhausted: its consumer stops, or its iterable raises."""

    def broken() -> Iterator[PromptedSource]:
        yield from prompted(values[:at])
        raise KeyboardInterrupt if ending == "interrupt" else OSError

    if ending == "stop":
        predictions = stream_sources(subject, prompted(values), PROMPTS, batch_size)
        for value in values[:at]:
            check(next(predictions), value)
        predictions.close()
        return
    received: list[PendingPrediction] = []
    with pytest.raises((KeyboardInterrupt, OSError)):
        collect(stream_sources(subject, broken(), PROMPTS, batch_size), received)
    assert ending == "interrupt" or len(received) == len(values[:at])
    for prediction, value in zip(received, values, strict=False):
        check(prediction, value)


def run_and_check(drawn: dict, kind: type[ThreadStream] = ThreadStream) -> None:
    """Every caller's stream, from its own thread, compared with the sequential run.

    If `drawn` has `endings`, one per caller, some stop early; if it names a stage that `dies`, the
    backend fails there at the grey level 7, and from then on all requests get a DeviceError.
    """
    dies = drawn.get("dies")

    def fails(stage: str, values: list[int]) -> None:
        if dies == stage and 7 in values:
            raise RuntimeError("an illegal memory access was encountered")
        if drawn["out_of_memory"] and stage == "classify" and len(values) > 2:
            raise MemoryError

    segment = kind("segment")
    subject = pipeline(
        Script(drawn["seed"], fails, drawn.get("prepares_late", False)),
        batches=drawn["batches"],
        max_batch=drawn["max_batch"],
        streams=(segment, segment if drawn["one_stream"] else kind("classify")),
        threads=drawn["threads"],
        max_wait=drawn["max_wait"],
        most_bytes=drawn["most_bytes"],
    )
    try:
        in_time(lambda: _call(subject, drawn))
        if subject.failure is None:
            in_time(lambda: stream_and_check(subject, [1, 2, 3], drawn["batch_size"]))
    finally:
        in_time(subject.close)
    # Only now: requests that a caller cancelled, or that a failed device was given, are under way
    # until they are settled, and only closing the pipeline waits for that.
    assert subject.stats().waiting == subject.stats().waiting_bytes == 0


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
