"""The pipeline: hundreds of random schedules against the sequential run, and every failure."""

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.execution import Event, Task, ThreadEvent, ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, stream_sources
from medfocus.engine.runtime.request_batcher import RequestBatcher
from medfocus.engine.worker_pool import WorkerPool
from medfocus.errors import DeviceError, ImageError, InputError, MedfocusError, OutputError
from medfocus.settings import Prompts
from tests.engine.runtime.schedules import (
    DEADLINE,
    PROMPTS,
    UNFIT,
    Script,
    ScriptedBuffers,
    check,
    collect,
    expected,
    in_time,
    picture,
    pipeline,
    prompted,
    request,
    run_and_check,
    stream_and_check,
)

TWO_POINTS = Prompts((((0.5, 0.5), (0.1, 0.1)),), ((1, 1),))


class Deaf(ThreadStream):
    """A planted bug: a stream that does not wait for the task that comes before."""

    def submit(self, task: Task, after: Event | None = None) -> Event:
        return super().submit(task)


schedule = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "callers": st.lists(st.lists(st.integers(0, 20), max_size=16), min_size=1, max_size=3),
        "batches": st.integers(1, 3),
        "max_batch": st.integers(1, 5),
        "batch_size": st.integers(1, 6),
        "threads": st.integers(1, 3),
        "max_wait": st.sampled_from((0.0, 0.0, 5e-4)),
        "most_bytes": st.sampled_from((1, 7, 100)),
        "one_stream": st.booleans(),
        "out_of_memory": st.booleans(),
        # Of three callers; most streams are exhausted.
        "endings": st.lists(
            st.tuples(
                st.sampled_from(("all", "all", "all", "stop", "raise", "interrupt")),
                st.integers(0, 16),
            ),
            min_size=3,
            max_size=3,
        ),
        "dies": st.sampled_from((None, None, None, None, "segment", "classify")),
    }
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(schedule)
def test_any_schedule_equals_the_sequential_run(drawn: dict) -> None:
    run_and_check(drawn)


def test_a_missing_wait_is_found() -> None:
    """Otherwise the test above would show nothing."""
    drawn = {
        "seed": 0,
        "callers": [[1, 2, 3, 4, 5, 6, 7, 8] * 4],
        "batches": 3,
        "max_batch": 2,
        "batch_size": 2,
        "threads": 2,
        "max_wait": 0.0,
        "most_bytes": 100,
        "one_stream": False,
        "out_of_memory": False,
    }
    run_and_check(drawn, ThreadStream)
    with pytest.raises(AssertionError):
        run_and_check(drawn | {"prepares_late": True}, Deaf)


def test_a_consumer_that_stops_early() -> None:
    script = Script(seed=0)
    subject = pipeline(script)
    pulled: list[int] = []

    def endless() -> Iterator[PromptedSource]:
        for value in iter(int, 1):
            pulled.append(value)
            yield PromptedSource(picture(value))

    predictions = stream_sources(subject, endless(), PROMPTS, 4)
    for _ in range(10):
        check(next(predictions), 0)
    in_time(predictions.close)
    assert len(pulled) < 60  # it was not read far ahead
    in_time(lambda: stream_and_check(subject, [1, 2, 3], 4))
    in_time(subject.close)
    assert subject.stats().waiting_bytes == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_iterable_that_raises(error: type[BaseException]) -> None:
    """An exception comes after the predictions of all earlier sources; an interrupt at once."""
    subject = pipeline(Script(seed=0))

    def broken() -> Iterator[PromptedSource]:
        yield from prompted([1, 2, 3, 5, 6])
        raise error

    received: list[PendingPrediction] = []
    with pytest.raises(error):
        collect(stream_sources(subject, broken(), PROMPTS, 4), received)
    if error is OSError:
        for prediction, value in zip(received, [1, 2, 3, 5, 6], strict=True):
            check(prediction, value)
    in_time(lambda: stream_and_check(subject, [1, 2, 3], 4))
    in_time(subject.close)
    assert subject.stats().waiting_bytes == 0


def test_a_source_that_waits_for_each_answer() -> None:
    """As a scanner or a service does; with sources that cannot be read among them."""
    subject = pipeline(Script())
    answered = threading.Semaphore(0)

    def live() -> Iterator[PromptedSource]:
        for item in prompted([value % 16 for value in range(100)]):
            yield item
            assert answered.acquire(timeout=DEADLINE)

    def consume() -> None:
        for number, prediction in enumerate(stream_sources(subject, live(), PROMPTS, 4)):
            check(prediction, number % 16)
            answered.release()

    in_time(consume)
    in_time(subject.close)


def test_a_batch_that_fails_does_not_affect_other_batches() -> None:
    def fails(stage: str, values: list[int]) -> None:
        if stage == "segment" and 3 in values:
            raise OutputError("engine", "failed", "try again")

    subject = pipeline(Script(fails=fails), max_batch=2)
    requests = [request(value) for value in (1, 2, 3, 4, 5, 6)]
    for pair in (requests[:2], requests[2:4], requests[4:]):
        subject.submit(pair)
    errors = [isinstance(one.future.exception(DEADLINE), OutputError) for one in requests]
    assert errors == [False, False, True, True, False, False]
    in_time(subject.close)


@pytest.mark.parametrize("stage", ["segment", "classify"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("an illegal memory access was encountered"),
        DeviceError("CUDA", "failed: an illegal memory access was encountered", "check the GPU"),
    ],
)
def test_a_backend_that_fails(stage: str, error: Exception) -> None:
    """All requests queued or under way get a typed error, and so do all later ones."""

    def fails(now: str, values: list[int]) -> None:
        if now == stage and 50 in values:
            raise error

    subject = pipeline(Script(seed=1, fails=fails))
    values = [*range(20, 80)]
    predictions: list[PendingPrediction] = []
    stream = stream_sources(subject, prompted(values), PROMPTS, 4)
    in_time(lambda: predictions.extend(stream))
    errors = [prediction.future.exception() for prediction in predictions]
    assert len(errors) == 60
    assert errors[0] is None
    assert all(error is None or isinstance(error, DeviceError) for error in errors)
    assert isinstance(errors[-1], DeviceError)
    assert (errors[-1].item, errors[-1].code) == ("engine", "device.failed")
    assert "illegal memory access" in errors[-1].problem
    late = request(1)
    subject.submit([late])
    assert str(late.future.exception(DEADLINE)) == str(subject.failure)
    in_time(subject.close)


class Refusing(ThreadStream):
    """A stream whose first task cannot be scheduled."""

    def submit(self, task: Task, after: Event | None = None) -> Event:
        if self._thread.name != "refused":
            self._thread.name = "refused"
            raise MemoryError
        return super().submit(task, after)


@pytest.mark.parametrize("refusing", [0, 1])
def test_buffers_are_used_again_only_after_their_tasks_have_ended(refusing: int) -> None:
    """A stage that cannot be scheduled leaves those before it under way."""
    streams = [ThreadStream("segment"), ThreadStream("classify")]
    streams[refusing] = Refusing("refusing")
    preparing = threading.Semaphore(0)
    overlaps: list[int] = []

    class Slow(ScriptedBuffers):
        running = 0

        def begin(self, requests: Sequence[ImageRequest]) -> None:
            overlaps.append(self.running)
            super().begin(requests)

        def prepare(self, row: int) -> None:
            self.running += 1
            preparing.acquire(timeout=0.2)  # long enough to be overtaken, were that possible
            super().prepare(row)
            self.running -= 1

    subject = Pipeline([Slow(Script(), 4)], *streams, max_batch=4)
    requests = [request(value) for value in range(4)]
    subject.submit(requests)
    for value, one in enumerate(requests):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert len(overlaps) == 3  # four images that were refused, and twice two
    assert not any(overlaps)
    in_time(subject.close)


class Launched(ThreadEvent):
    """As a GPU's: what a task has launched, ends when somebody waits for it."""

    ended_work = False

    def wait(self) -> None:
        try:
            super().wait()
        finally:
            self.ended_work = True


class Launching(ThreadStream):
    """A stream that does not wait for the work of the task before, only for its launch."""

    def __init__(self, name: str) -> None:
        self.events: list[Launched] = []
        super().__init__(name)

    def _event(self) -> ThreadEvent:
        self.events.append(Launched())
        return self.events[-1]

    def _execute(self, task: Task, after: Event | None, event: ThreadEvent) -> None:
        if isinstance(after, Launched):
            ThreadEvent.wait(after)
            after = None
        super()._execute(task, after, event)


@pytest.mark.parametrize("failing_stage", ["segment", "classify"])
def test_the_buffers_of_a_failed_batch_are_used_again_only_after_its_work(
    failing_stage: str,
) -> None:
    """A stage that ran out of memory had launched uploads, which still read the buffers."""
    segment, classify = Launching("segment"), Launching("classify")
    under_way: list[int] = []

    class Watching(ScriptedBuffers):
        def begin(self, requests: Sequence[ImageRequest]) -> None:
            under_way.append(sum(not event.ended_work for event in segment.events))
            super().begin(requests)

    def fails(stage: str, values: list[int]) -> None:
        if stage == failing_stage and len(values) > 1:
            raise MemoryError

    subject = Pipeline([Watching(Script(fails=fails), 2)], segment, classify, max_batch=2)
    requests = [request(value) for value in range(2)]
    subject.submit(requests)
    for value, one in enumerate(requests):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert under_way == [0, 0, 0]  # both images, and twice one
    in_time(subject.close)


def failing(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize("planted", ["log", "metrics", "is_out_of_memory"])
def test_an_error_while_an_outcome_is_handled_leaves_nobody_waiting(
    planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(stage: str, values: list[int]) -> None:
        if planted != "metrics":
            raise RuntimeError("an illegal memory access was encountered")

    subject = pipeline(Script(fails=fails))
    if planted == "log":
        monkeypatch.setattr("medfocus.engine.runtime.pipeline.log.error", failing)
    elif planted == "metrics":
        monkeypatch.setattr(subject._metrics, "add", failing)
    else:
        monkeypatch.setattr("medfocus.engine.runtime.pipeline.is_out_of_memory", failing)
    one = request(3)
    subject.submit([one])
    if planted == "metrics":
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(3)]
    else:
        assert isinstance(one.future.exception(DEADLINE), DeviceError)
    in_time(subject.close)
    assert subject.budget.held == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pipeline_whose_own_thread_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestBatcher, "take", failing)
    subject = pipeline(Script())
    one = request(3)
    subject.submit([one])
    assert isinstance(one.future.exception(DEADLINE), DeviceError)
    assert isinstance(subject.failure, DeviceError)
    in_time(subject.close)


def test_closing_fails_queued_requests_and_finishes_those_under_way() -> None:
    gate, script = gated()
    subject = pipeline(script, max_batch=1)
    requests = [request(value) for value in range(8)]
    subject.submit(requests)
    script.wait_for_batches(2)
    assert subject.stats().waiting == 6
    closing = threading.Thread(target=subject.close)
    closing.start()
    for one in requests[2:]:
        error = one.future.exception(DEADLINE)
        assert isinstance(error, InputError)
        assert error.code == "engine.closed"
    gate.set()
    closing.join(DEADLINE)
    assert not closing.is_alive()
    for value, under_way in enumerate(requests[:2]):
        assert under_way.future.result(0).probabilities.tolist() == [expected(value)]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        DeviceError("CUDA", "cudaMalloc failed: out of memory", "check the GPU"),
    ],
)
def test_out_of_memory_halves_the_batch(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    def fails(stage: str, values: list[int]) -> None:
        if len(values) > 2:
            raise error

    subject = pipeline(Script(fails=fails), max_batch=16)
    requests = [request(value) for value in range(1, 13)] + [request(value) for value in range(4)]
    subject.submit(requests)
    for one in requests:
        one.future.result(DEADLINE)
    assert subject.stats().max_batch == 2
    assert [record.getMessage()[:25] for record in caplog.records] == [
        "out of memory: at most 8 ",
        "out of memory: at most 4 ",
        "out of memory: at most 2 ",
    ]
    in_time(lambda: stream_and_check(subject, [0, 1, 2, 3] * 20, 16))
    in_time(subject.close)


def test_out_of_memory_in_a_batch_of_one_is_that_images_error() -> None:
    def fails(stage: str, values: list[int]) -> None:
        if 7 in values:
            raise DeviceError("CUDA", "cudaMalloc failed: out of memory", "check the GPU")

    subject = pipeline(Script(fails=fails))
    requests = [request(value) for value in (1, 7, 2)]
    subject.submit(requests)
    error = requests[1].future.exception(DEADLINE)
    assert isinstance(error, DeviceError)
    assert (error.item, error.code) == ("grey 7", "device.out_of_memory")
    for one, value in ((requests[0], 1), (requests[2], 2)):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    in_time(lambda: stream_and_check(subject, [1, 2, 3], 4))
    in_time(subject.close)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_out_of_memory_while_preprocessing_is_that_images_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is a DeviceError, not an ImageError, and does not affect the batch."""
    prepare = ScriptedBuffers.prepare

    def too_large(self: ScriptedBuffers, row: int) -> None:
        if self._values[row] == 7:
            raise error
        prepare(self, row)

    monkeypatch.setattr(ScriptedBuffers, "prepare", too_large)
    subject = pipeline(Script(), max_batch=4)
    requests = [request(value) for value in (1, 7, 2)]
    subject.submit(requests)
    found = requests[1].future.exception(DEADLINE)
    assert isinstance(found, DeviceError)
    assert (found.item, found.code) == ("grey 7", "device.out_of_memory")
    for one, value in ((requests[0], 1), (requests[2], 2)):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert subject.max_batch == 4
    in_time(subject.close)


def test_out_of_memory_while_reading_is_not_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(source: object, name: str) -> None:
        raise MemoryError

    monkeypatch.setattr("medfocus.engine.runtime.read_ahead.converted", too_large)
    subject = pipeline(Script())
    (prediction,) = stream_sources(subject, prompted([1]), PROMPTS, 4)
    found = prediction.future.exception()
    assert isinstance(found, DeviceError)
    assert (found.item, found.code) == ("item 0", "device.out_of_memory")
    in_time(subject.close)


def test_a_thousand_times_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs out of memory, and when: every request is settled exactly once."""
    settled: Counter[int] = Counter()
    settle = RequestBatcher.settle

    def counting(self: RequestBatcher, one: ImageRequest, outcome: object) -> None:
        settled[id(one)] += 1
        settle(self, one, outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestBatcher, "settle", counting)
    random = np.random.default_rng(0)
    injected = 0

    def fails(stage: str, values: list[int]) -> None:
        nonlocal injected
        if random.random() < 0.3:
            injected += 1
            raise MemoryError

    succeeded, failed = 0, 0
    while injected < 1000:
        subject = pipeline(Script(seed=injected, fails=fails), max_batch=8, batches=3)
        requests = [request(value) for value in range(40)]
        for start in range(0, 40, 8):
            subject.submit(requests[start : start + 8])
        for value, one in enumerate(requests):
            error = one.future.exception(DEADLINE)
            if value == UNFIT:
                assert isinstance(error, MedfocusError)
            elif error is None:
                succeeded += 1
                assert one.future.result().probabilities.tolist() == [expected(value)]
            else:
                failed += 1
                assert isinstance(error, DeviceError)
                assert error.code == "device.out_of_memory"
        in_time(subject.close)
        assert [settled[id(one)] for one in requests] == [1] * 40
        settled.clear()
    assert succeeded
    assert failed


def gated() -> tuple[threading.Event, Script]:
    """A script whose graphs run only once the event is set."""
    gate = threading.Event()

    def wait(stage: str, values: list[int]) -> None:
        assert gate.wait(DEADLINE)

    return gate, Script(fails=wait)


def test_concurrent_requests_are_batched() -> None:
    """Single images of many callers, queued while the first is under way."""
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=8)
    first = request(40)
    subject.submit([first])
    script.wait_for_batches(1)
    others = [request(value) for value in range(10, 16)]
    for other in others:
        subject.submit([other])
    gate.set()
    assert first.future.result(DEADLINE).probabilities.tolist() == [expected(40)]
    for value, other in zip(range(10, 16), others, strict=True):
        if value == UNFIT:
            assert isinstance(other.future.exception(DEADLINE), ImageError)
        else:
            assert other.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert script.batches == [[40], [10, 11, 12, 13, 14, 15]]
    in_time(subject.close)


def test_prompts_of_different_shapes_do_not_mix() -> None:
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=8)
    subject.submit([request(0)])
    script.wait_for_batches(1)
    requests = [request(1), request(2, TWO_POINTS), request(3), request(4, TWO_POINTS)]
    subject.submit(requests)
    gate.set()
    for value, one in enumerate(requests, 1):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert script.batches == [[0], [1, 3], [2, 4]]
    in_time(subject.close)


def test_a_batch_that_is_not_full_waits_for_more() -> None:
    script = Script()
    subject = pipeline(script, max_batch=3, max_wait=DEADLINE)
    requests = [request(value) for value in range(3)]
    for one in requests:
        time.sleep(0.02)  # time enough to run a batch of one, if that did not wait
        subject.submit([one])
    for value, one in enumerate(requests):
        assert one.future.result(DEADLINE).probabilities.tolist() == [expected(value)]
    assert script.batches == [[0, 1, 2]]
    in_time(subject.close)
    impatient = pipeline(script, max_batch=3, max_wait=0.05)
    last = request(7)
    impatient.submit([last])
    assert last.future.result(DEADLINE).probabilities.tolist() == [expected(7)]
    in_time(impatient.close)


def test_decoded_images_are_bounded() -> None:
    gate, script = gated()
    subject = pipeline(script, most_bytes=12)
    submitted: list[int] = []
    accepted = threading.Semaphore(0)

    def submit() -> None:
        for value in range(9):
            subject.submit([request(value)])  # three bytes each
            submitted.append(value)
            accepted.release()

    thread = threading.Thread(target=submit)
    thread.start()
    assert all(accepted.acquire(timeout=DEADLINE) for _ in range(4))
    thread.join(0.1)  # time enough to submit the next, if that did not wait
    assert submitted == [0, 1, 2, 3]
    assert subject.stats().waiting_bytes == 12
    gate.set()
    thread.join(DEADLINE)
    assert submitted == list(range(9))
    in_time(subject.close)


def test_a_cancelled_image_is_not_run() -> None:
    gate, script = gated()
    subject = pipeline(script, batches=1, max_batch=1)
    requests = [request(value) for value in range(4)]
    subject.submit(requests)
    script.wait_for_batches(1)
    assert requests[2].future.cancel()
    gate.set()
    requests[3].future.result(DEADLINE)
    assert script.batches == [[0], [1], [3]]
    in_time(subject.close)
    assert subject.stats().waiting_bytes == 0


def test_stats_and_spans_record_all_work() -> None:
    subject = pipeline(Script(seed=2), batches=3)
    with subject.tracing() as spans:
        stream_and_check(subject, [0, 1, 2, 3] * 5, 4)
    in_time(subject.close)
    stats = subject.stats()
    assert stats.images == 20
    assert {name: stage.images for name, stage in stats.stages.items()} == {
        "read": 0,  # arrays are not read by the workers
        "prepare": 20,
        "segment": 20,
        "classify": 20,
        "answer": 20,
    }
    assert 0 < stats.latency["p50"] <= stats.latency["p95"] <= stats.latency["p99"]
    by_batch: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for span in spans:
        assert span.batch is not None
        assert span.buffers in (0, 1, 2)
        stages = by_batch.setdefault(span.batch, {})
        stages.setdefault(span.stage, []).append((span.begun, span.ended))
    assert sorted(by_batch) == list(range(len(by_batch)))
    for stages in by_batch.values():
        prepared = max(ended for _, ended in stages["prepare"])
        (segment,), (classify,), (answer,) = (stages[s] for s in ("segment", "classify", "answer"))
        times = [prepared, *segment, *classify, *answer]
        assert times == sorted(times)


def test_a_large_image_is_not_starved_by_small_ones() -> None:
    subject = pipeline(Script(seed=3), most_bytes=30)
    stop = threading.Event()

    def small() -> None:
        while not stop.is_set():
            one = request(1)
            subject.submit([one])
            one.future.result(DEADLINE)

    threads = [threading.Thread(target=small) for _ in range(6)]
    for thread in threads:
        thread.start()
    large = ImageRequest(SourceImage(np.full((3, 2, 3), 2, np.uint8), "large"), PROMPTS)
    in_time(lambda: subject.submit([large]))
    assert large.future.result(DEADLINE).probabilities.tolist() == [expected(2)]
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    in_time(subject.close)


def test_a_batch_that_ran_out_of_memory_is_released_before_its_halves_run() -> None:
    """A traceback keeps the frames' variables alive, and with them the model's tensors."""
    alive: list[weakref.ref[np.ndarray]] = []
    seen: list[int] = []

    def fails(stage: str, values: list[int]) -> None:
        seen.append(sum(activation() is not None for activation in alive))
        activations = np.zeros(100)
        alive.append(weakref.ref(activations))
        if len(values) > 1:
            raise MemoryError

    gc.disable()  # releasing must not depend on the collector
    try:
        subject = pipeline(Script(fails=fails), batches=1, max_batch=8)
        requests = [request(1) for _ in range(8)]
        subject.submit(requests)
        for one in requests:
            one.future.result(DEADLINE)
        in_time(subject.close)
    finally:
        gc.enable()
    assert len(seen) > 3
    assert not any(seen)


def test_an_idle_pipeline_holds_no_images() -> None:
    subject = pipeline(Script(), batches=2)
    requests = [request(1), request(2)]
    images = [weakref.ref(one.image.pixels) for one in requests]
    futures = [one.future for one in requests]
    subject.submit(requests)
    del requests
    for future in futures:
        future.result(DEADLINE)
    late = time.monotonic() + DEADLINE  # a worker releases its task after it has set the result
    while any(image() is not None for image in images) and time.monotonic() < late:
        time.sleep(1e-3)
    assert [image() for image in images] == [None, None]
    in_time(subject.close)


def test_stats_tell_how_long_work_waited_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread, work that is submitted while it is busy waits until it is free."""
    queued = threading.Semaphore(0)
    submit = WorkerPool.submit

    def counting(self: WorkerPool, task: Task) -> Future[object]:
        future = submit(self, task)
        queued.release()
        return future

    monkeypatch.setattr(WorkerPool, "submit", counting)
    subject = pipeline(Script(), threads=1)

    def waited(stage: str, work: Callable[[], Future[object]]) -> tuple[float, float]:
        """Seconds that `work` must have waited at least, and those that the stats say."""
        gate = threading.Event()
        before = subject.stats().stages[stage].waited
        pool = subject._readers if stage == "read" else subject._workers
        busy = pool.submit(lambda: gate.wait(DEADLINE))
        future = work()
        assert all(queued.acquire(timeout=DEADLINE) for _ in range(2))
        since = time.perf_counter()
        time.sleep(0.05)
        least = time.perf_counter() - since
        gate.set()
        assert busy.result(DEADLINE)
        future.result(DEADLINE)
        return least, subject.stats().stages[stage].waited - before

    def read() -> Future[object]:
        return subject.read(lambda admit: None)

    def prepare() -> Future[object]:
        one = request(1)
        subject.submit([one])
        return one.future  # type: ignore[return-value]

    for stage, work in (("read", read), ("prepare", prepare)):
        least, found = waited(stage, work)
        assert found >= least
    subject.close()


def test_the_former_name_of_buffer_bytes_still_works() -> None:
    subject = pipeline(Script())
    stats = subject.stats()
    assert stats.buffer_bytes > 0
    with pytest.warns(DeprecationWarning, match="buffer_bytes"):
        assert stats.ring_bytes == stats.buffer_bytes
    in_time(subject.close)


def test_whatever_preprocessing_raises_costs_that_image_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = ScriptedBuffers.prepare

    def interrupted(self: ScriptedBuffers, row: int) -> None:
        if self._values[row] == 1:
            raise SystemExit("text of a stranger")
        prepare(self, row)

    monkeypatch.setattr(ScriptedBuffers, "prepare", interrupted)
    subject = pipeline(Script())
    first, second = stream_sources(subject, prompted([1, 2]), PROMPTS, 4)
    error = first.future.exception()
    assert isinstance(error, ImageError)
    assert "stranger" not in str(error)
    check(second, 2)
    in_time(subject.close)
