"""The schedule: thousands of random ones against the sequential run, and each thing that fails."""

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.execution import Event, Task, ThreadEvent, ThreadStream
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, stream_sources
from medfocus.engine.runtime.request_batcher import RequestBatcher
from medfocus.errors import DeviceError, ImageError, InputError, MedfocusError, OutputError
from medfocus.settings import Prompts
from tests.engine.runtime.schedules import (
    PROMPTS,
    UNFIT,
    Script,
    ScriptedBuffers,
    check,
    expected,
    picture,
    pipeline,
    prompted,
    request,
    run_and_check,
    stream_and_check,
    within,
)

TWO_POINTS = Prompts((((0.5, 0.5), (0.1, 0.1)),), ((1, 1),))


class Deaf(ThreadStream):
    """The planted bug: a stream that does not wait for what its work is to follow."""

    def submit(self, work: Task, after: Event | None = None) -> ThreadEvent:
        return super().submit(work)


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
        # Of three callers: most streams come to their end.
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
@settings(max_examples=2000, deadline=None)
@given(schedule)
def test_any_schedule_equals_the_sequential_run(drawn: dict) -> None:
    run_and_check(drawn)


def test_a_missing_wait_is_found() -> None:
    """Without it these tests would show nothing."""
    drawn = {
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
    for kind in (ThreadStream, Deaf):
        wrong = 0
        for seed in range(5):
            try:
                run_and_check(drawn | {"seed": seed}, kind)
            except AssertionError:
                wrong += 1
        assert wrong == (5 if kind is Deaf else 0)


def test_a_consumer_that_stops_early() -> None:
    script = Script(seed=0)
    subject = pipeline(script)
    given_out: list[int] = []

    def endless() -> Iterator[PromptedSource]:
        for value in iter(int, 1):
            given_out.append(value)
            yield PromptedSource(picture(value))

    responses = stream_sources(subject, endless(), PROMPTS, 4)
    for _ in range(10):
        check(next(responses), 0)
    within(20, responses.close)
    assert len(given_out) < 60  # it was not read far ahead
    within(20, lambda: stream_and_check(subject, [1, 2, 3], 4))
    assert subject.stats().waiting_bytes == 0
    within(20, subject.close)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_iterable_that_raises(error: type[BaseException]) -> None:
    """An exception comes after all answers that it does not concern; an interrupt at once."""
    subject = pipeline(Script(seed=0))

    def broken() -> Iterator[PromptedSource]:
        yield from prompted([1, 2, 3, 5, 6])
        raise error

    responses = stream_sources(subject, broken(), PROMPTS, 4)
    answered = []
    with pytest.raises(error):
        answered.extend(responses) if error is KeyboardInterrupt else [
            answered.append(response) for response in responses
        ]
    if error is OSError:
        for response, value in zip(answered, [1, 2, 3, 5, 6], strict=True):
            check(response, value)
    within(20, lambda: stream_and_check(subject, [1, 2, 3], 4))
    within(20, subject.close)
    assert subject.stats().waiting_bytes == 0


def test_a_batch_that_cannot_be_used_leaves_the_others_alone() -> None:
    def fails(stage: str, values: list[int]) -> None:
        if stage == "segment" and 3 in values:
            raise OutputError("engine", "cannot", "do otherwise")

    subject = pipeline(Script(fails=fails), max_batch=2)
    requests = [request(value) for value in (1, 2, 3, 4, 5, 6)]
    for pair in (requests[:2], requests[2:4], requests[4:]):
        subject.submit(pair)
    errors = [isinstance(waiting.future.exception(20), OutputError) for waiting in requests]
    assert errors[2]
    assert sum(errors) <= 2
    assert not errors[0]
    assert not errors[5]
    within(20, subject.close)


@pytest.mark.parametrize("stage", ["segment", "classify"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("an illegal memory access was encountered"),
        DeviceError("CUDA", "failed: an illegal memory access was encountered", "check the GPU"),
    ],
)
def test_a_backend_that_dies(stage: str, error: Exception) -> None:
    """All that is under way or waits is answered with a typed error, and so is all that comes."""

    def fails(now: str, values: list[int]) -> None:
        if now == stage and 50 in values:
            raise error

    subject = pipeline(Script(seed=1, fails=fails))
    values = [*range(20, 80)]
    responses: list[PendingPrediction] = []
    stream = stream_sources(subject, prompted(values), PROMPTS, 4)
    within(20, lambda: responses.extend(stream))
    errors = [response.future.exception() for response in responses]
    assert len(errors) == 60
    assert errors[0] is None
    assert all(error is None or isinstance(error, DeviceError) for error in errors)
    said = str(errors[-1])
    assert "illegal memory access" in said
    assert "Load the engine again" in said
    late = request(1)
    subject.submit([late])
    assert str(late.future.exception(20)) == str(subject.failure)
    within(20, subject.close)


def test_closing_answers_all_that_waits() -> None:
    gate = threading.Event()
    subject = pipeline(Script(fails=lambda stage, values: gate.wait(20) and None), max_batch=1)
    requests = [request(value) for value in range(8)]
    subject.submit(requests)
    while subject.stats().waiting > 6:
        time.sleep(1e-3)
    closing = threading.Thread(target=subject.close)
    closing.start()
    for waiting in requests[2:]:
        assert isinstance(waiting.future.exception(20), InputError)
    gate.set()
    closing.join(20)
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

    script = Script(fails=fails)
    subject = pipeline(script, max_batch=16)
    within(20, lambda: stream_and_check(subject, [0, 1, 2, 3] * 20, 16))
    assert subject.stats().max_batch == 2
    assert [record.getMessage()[:25] for record in caplog.records] == [
        "out of memory: at most 8 ",
        "out of memory: at most 4 ",
        "out of memory: at most 2 ",
    ]
    within(20, subject.close)


def test_no_memory_for_one_image_alone_is_its_own_error() -> None:
    def fails(stage: str, values: list[int]) -> None:
        if 7 in values:
            raise DeviceError("CUDA", "cudaMalloc failed: out of memory", "check the GPU")

    subject = pipeline(Script(fails=fails))
    requests = [request(value) for value in (1, 7, 2)]
    subject.submit(requests)
    error = requests[1].future.exception(20)
    assert isinstance(error, DeviceError)
    assert error.item == "grey 7"
    for waiting, value in ((requests[0], 1), (requests[2], 2)):
        assert waiting.future.result(20).probabilities.tolist() == [expected(value)]
    within(20, lambda: stream_and_check(subject, [1, 2, 3], 4))
    within(20, subject.close)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_no_memory_to_prepare_an_image_is_its_own_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """And neither the image's fault nor its neighbours'."""
    fill = ScriptedBuffers.prepare

    def too_large(self: ScriptedBuffers, row: int) -> None:
        if self._values[row] == 7:
            raise error
        fill(self, row)

    monkeypatch.setattr(ScriptedBuffers, "prepare", too_large)
    subject = pipeline(Script(), max_batch=4)
    requests = [request(value) for value in (1, 7, 2)]
    subject.submit(requests)
    found = requests[1].future.exception(20)
    assert isinstance(found, DeviceError)
    assert "grey 7: there is no memory to prepare it" in str(found)
    for waiting, value in ((requests[0], 1), (requests[2], 2)):
        assert waiting.future.result(20).probabilities.tolist() == [expected(value)]
    assert subject.max_batch == 4
    within(20, subject.close)


def test_no_memory_to_read_an_image_is_not_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(source: object, name: str) -> None:
        raise MemoryError

    monkeypatch.setattr("medfocus.engine.runtime.read_ahead.read_images", too_large)
    subject = pipeline(Script())
    (response,) = stream_sources(subject, prompted([1]), PROMPTS, 4)
    found = response.future.exception()
    assert isinstance(found, DeviceError)
    assert "item 0: there is no memory to read it (MemoryError)" in str(found)
    within(20, subject.close)


def test_a_thousand_times_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is out of memory and when: every image is answered, and once."""
    settled: Counter[int] = Counter()
    settle = RequestBatcher.settle

    def counting(self: RequestBatcher, waiting: ImageRequest, outcome: object) -> None:
        settled[id(waiting)] += 1
        settle(self, waiting, outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestBatcher, "settle", counting)
    random = np.random.default_rng(0)
    injected = 0

    def fails(stage: str, values: list[int]) -> None:
        nonlocal injected
        if random.random() < 0.3:
            injected += 1
            raise MemoryError

    answered, refused = 0, 0
    while injected < 1000:
        subject = pipeline(Script(seed=injected, fails=fails), max_batch=8, batches=3)
        requests = [request(value) for value in range(40)]
        for start in range(0, 40, 8):
            subject.submit(requests[start : start + 8])
        for value, waiting in enumerate(requests):
            error = waiting.future.exception(20)
            if value == UNFIT:
                assert isinstance(error, MedfocusError)
            elif error is None:
                answered += 1
                assert waiting.future.result().probabilities.tolist() == [expected(value)]
            else:
                refused += 1
                assert isinstance(error, DeviceError)
                assert "no memory to run so much as this image" in str(error)
        within(20, subject.close)
        assert [settled[id(waiting)] for waiting in requests] == [1] * 40
        settled.clear()
    assert answered
    assert refused


def _await_batch(script: Script) -> None:
    late = time.monotonic() + 20
    while not script.batches and time.monotonic() < late:
        time.sleep(1e-3)


def test_what_waits_together_runs_together() -> None:
    """Single images of many callers, while the first is under way; each has its own answer."""
    gate, script = threading.Event(), Script()
    script.fails = lambda stage, values: gate.wait(20) and None
    subject = pipeline(script, batches=1, max_batch=8)
    first = request(40)
    subject.submit([first])
    _await_batch(script)
    others = [request(value) for value in range(10, 16)]
    for other in others:
        subject.submit([other])
    gate.set()
    assert first.future.result(20).probabilities.tolist() == [expected(40)]
    for value, other in zip(range(10, 16), others, strict=True):
        if value == UNFIT:
            assert isinstance(other.future.exception(20), ImageError)
        else:
            assert other.future.result(20).probabilities.tolist() == [expected(value)]
    assert script.batches == [[40], [10, 11, 12, 13, 14, 15]]
    within(20, subject.close)


def test_prompts_of_different_shapes_do_not_mix() -> None:
    gate, script = threading.Event(), Script()
    script.fails = lambda stage, values: gate.wait(20) and None
    subject = pipeline(script, batches=1, max_batch=8)
    subject.submit([request(0)])
    _await_batch(script)
    requests = [request(1), request(2, TWO_POINTS), request(3), request(4, TWO_POINTS)]
    subject.submit(requests)
    gate.set()
    for value, waiting in enumerate(requests, 1):
        assert waiting.future.result(20).probabilities.tolist() == [expected(value)]
    assert script.batches == [[0], [1, 3], [2, 4]]
    within(20, subject.close)


def test_a_batch_that_is_not_full_waits_for_more() -> None:
    script = Script()
    subject = pipeline(script, max_batch=3, max_wait=20)
    requests = [request(value) for value in range(3)]
    for waiting in requests:
        time.sleep(0.02)
        subject.submit([waiting])
    for value, waiting in enumerate(requests):
        assert waiting.future.result(10).probabilities.tolist() == [expected(value)]
    assert script.batches == [[0, 1, 2]]
    within(20, subject.close)
    alone = pipeline(script, max_batch=3, max_wait=0.05)
    last = request(7)
    alone.submit([last])
    assert last.future.result(10).probabilities.tolist() == [expected(7)]
    within(20, alone.close)


def test_decoded_images_are_bounded() -> None:
    gate = threading.Event()
    subject = pipeline(Script(fails=lambda stage, values: gate.wait(20) and None), most_bytes=12)
    submitted = []

    def submit() -> None:
        for value in range(9):
            subject.submit([request(value)])  # three bytes each
            submitted.append(value)

    thread = threading.Thread(target=submit)
    thread.start()
    while len(submitted) < 4:
        time.sleep(1e-3)
    thread.join(0.1)
    assert submitted == [0, 1, 2, 3]
    assert subject.stats().waiting_bytes == 12
    gate.set()
    thread.join(20)
    assert submitted == list(range(9))
    within(20, subject.close)


def test_a_cancelled_image_is_not_run() -> None:
    gate = threading.Event()
    script = Script(fails=lambda stage, values: gate.wait(20) and None)
    subject = pipeline(script, batches=1, max_batch=1)
    requests = [request(value) for value in range(4)]
    subject.submit(requests)
    while subject.stats().waiting > 3:
        time.sleep(1e-3)
    assert requests[2].future.cancel()
    gate.set()
    requests[3].future.result(20)
    assert script.batches == [[0], [1], [3]]
    within(20, subject.close)
    assert subject.stats().waiting_bytes == 0


def test_stats_and_spans_tell_what_was_done() -> None:
    subject = pipeline(Script(seed=2), batches=3)
    with subject.tracing() as spans:
        stream_and_check(subject, [0, 1, 2, 3] * 5, 4)
    within(20, subject.close)
    stats = subject.stats()
    assert stats.images == 20
    assert {name: stage.images for name, stage in stats.stages.items()} == {
        "read": 0,  # arrays need no reading
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
            waiting = request(1)
            subject.submit([waiting])
            waiting.future.result(20)

    threads = [threading.Thread(target=small) for _ in range(6)]
    for thread in threads:
        thread.start()
    large = ImageRequest(SourceImage(np.full((3, 2, 3), 2, np.uint8), "large"), PROMPTS)
    within(20, lambda: subject.submit([large]))
    assert large.future.result(20).probabilities.tolist() == [expected(2)]
    stop.set()
    for thread in threads:
        thread.join(20)
    within(20, subject.close)


def test_what_failed_for_want_of_memory_is_let_go_before_the_halves_run() -> None:
    """A traceback keeps the frames' variables, and with them the model's tensors."""
    alive: list[weakref.ref[np.ndarray]] = []
    seen: list[int] = []

    def fails(stage: str, values: list[int]) -> None:
        seen.append(sum(activation() is not None for activation in alive))
        activations = np.zeros(100)
        alive.append(weakref.ref(activations))
        if len(values) > 1:
            raise MemoryError

    gc.disable()  # nothing may wait for the collector
    try:
        subject = pipeline(Script(fails=fails), batches=1, max_batch=8)
        requests = [request(1) for _ in range(8)]
        subject.submit(requests)
        for waiting in requests:
            waiting.future.result(20)
        within(20, subject.close)
    finally:
        gc.enable()
    assert len(seen) > 3
    assert not any(seen)


def test_an_idle_pipeline_holds_no_images() -> None:
    subject = pipeline(Script(), batches=2)
    requests = [request(1), request(2)]
    images = [weakref.ref(waiting.image.pixels) for waiting in requests]
    answers = [waiting.future for waiting in requests]
    subject.submit(requests)
    del requests
    for answer in answers:
        answer.result(20)
    late = time.monotonic() + 20
    while any(image() is not None for image in images) and time.monotonic() < late:
        time.sleep(1e-3)
    assert [image() for image in images] == [None, None]
    within(20, subject.close)


def test_stats_tell_how_long_work_waited_for_a_thread() -> None:
    """One thread: who is asked for while another is read or prepared waits until that is done."""
    subject = pipeline(Script(), threads=1)
    reads = [subject.read(time.sleep, seconds) for seconds in (0.2, 0.0)]
    for read in reads:
        read.result()
    assert subject.stats().stages["read"].waited >= 0.2
    before = subject.stats().stages["prepare"].waited
    busy = subject.read(time.sleep, 0.2)
    stream_and_check(subject, [1, 2], 2)
    busy.result()
    subject.close()
    assert subject.stats().stages["prepare"].waited - before >= 0.1
