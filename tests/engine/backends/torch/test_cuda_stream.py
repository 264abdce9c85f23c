"""CUDA streams and clocks, on a stand-in for CUDA with its own time and two devices."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.torch import batch_buffers, cuda_stream
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.cuda_stream import CudaStream
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.image_request import ImageRequest


class Machine:
    """A host's clock, and GPUs that finish everything immediately.

    Attributes:
        now: the host's time in seconds.
        late: seconds by which the host wakes up late after each event that it waits for.
        device: the calling thread's current one.
        slept: for each host wait for an event, whether the thread slept; otherwise it spun.
        done: tasks, in the order in which they ran.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.late: Iterator[float] = iter(())
        self.slept: list[bool] = []
        self.done: list[str] = []
        self._thread = threading.local()

    @property
    def device(self) -> int:
        return getattr(self._thread, "device", 0)

    @device.setter
    def device(self, ordinal: int) -> None:
        self._thread.device = ordinal

    @contextmanager
    def current(self, ordinal: int) -> Iterator[None]:
        before, self.device = self.device, ordinal
        yield
        self.device = before


class Stream:
    def __init__(self, machine: Machine, device: int | None) -> None:
        self._machine = machine
        self.device = machine.device if device is None else device

    def synchronize(self) -> None:
        self._machine.done.append("synchronize")
        if self._machine.now < 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def wait_event(self, event: "Event") -> None:
        assert event.device == self.device


class Event:
    def __init__(self, machine: Machine, blocking: bool = False) -> None:
        self._machine, self._blocking = machine, blocking

    def record(self, stream: Stream | None = None) -> None:
        self.device = self._machine.device if stream is None else stream.device
        self.at = self._machine.now

    def synchronize(self) -> None:
        assert self._machine.device == self.device, "another GPU would get a context"
        self._machine.slept.append(self._blocking)
        self._machine.now += next(self._machine.late, 1e-5)

    def elapsed_time(self, other: "Event") -> float:
        if self.device != other.device:
            raise RuntimeError("Event device does not match recording stream's device")
        return (other.at - self.at) * 1e3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: Stream(machine, device))
    event = lambda enable_timing, blocking=False: Event(machine, blocking)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: machine.current(stream.device))
    monkeypatch.setattr(torch.cuda, "device", machine.current)
    monkeypatch.setattr(torch.cuda.nvtx, "range", lambda name: nullcontext())
    monkeypatch.setattr(cuda_stream, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    return machine


def test_a_late_wake_up_does_not_shift_the_times(machine: Machine) -> None:
    machine.late = iter((5e-3, 8e-3, 2e-5, 3e-3, 9e-3))
    stream = CudaStream("timed")
    event, machine.now = Event(machine), 107.0
    event.record(stream.cuda)  # type: ignore[arg-type]
    assert stream._clock.read(event) == pytest.approx(107.0, abs=2e-5)  # type: ignore[arg-type]
    stream.close()


def test_tasks_and_their_events_are_on_the_streams_device(machine: Machine) -> None:
    with machine.current(1):
        stream = CudaStream("on the second GPU")
    seen: list[int] = []
    event = stream.submit(lambda: seen.append(machine.device))
    event.wait()  # in a thread on the first one
    assert seen == [1]
    assert machine.device == 0
    assert event.ended >= event.begun >= 100
    stream.close()


def test_all_of_an_engine_is_on_its_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, engine_directory: Path
) -> None:
    """Loaded and run by threads on the first GPU; its tensors are here on the CPU."""
    directory = read_engine_directory(engine_directory)
    manifest, backend = directory.manifest, TorchBackend(directory, "cpu")
    backend.device, backend.ordinal = "cuda", 1
    seen: list[tuple[str, int]] = []

    def stream(device: int | None = None) -> Stream:
        seen.append(("stream", machine.device if device is None else device))
        return Stream(machine, device)

    def graph(work: Callable[[], None], shared: object, name: str) -> Any:
        seen.append(("capture", machine.device))

        def replay() -> None:
            seen.append(("replay", machine.device))
            work()

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(torch.cuda, "device", lambda _: machine.current(1))
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(batch_buffers, "captured", graph)
    image = SourceImage(np.zeros((20, 20, 3), np.uint8), "image")
    with closing(backend.buffer_pool(manifest, 1)) as pool:
        assert machine.device == 0
        pool.run(pool.buffers[0], [ImageRequest(image, manifest.prompts)])
    assert {what for what, _ in seen} == {"stream", "capture", "replay"}
    assert {device for _, device in seen} == {1}


def test_a_replaced_clock_stays_on_the_streams_device(machine: Machine) -> None:
    machine.device = 1
    stream = CudaStream("on the second GPU")
    first = stream._clock
    machine.device = 0  # as in the pipeline's thread, which submits
    machine.now += cuda_stream.CLOCK_SECONDS + 1
    stream._event()
    assert stream._clock is not first
    event = Event(machine)
    event.record(stream.cuda)  # type: ignore[arg-type]
    assert stream._clock.read(event) == pytest.approx(machine.now, abs=1e-4)  # type: ignore[arg-type]
    stream.close()


def test_a_thread_that_waits_for_a_task_sleeps(machine: Machine) -> None:
    """A clock's zero, measured before, is the one wait that spins."""
    stream = CudaStream("waited for")
    measured = len(machine.slept)
    assert not any(machine.slept)
    stream.submit(lambda: None).wait()
    assert machine.slept[measured:] == [True]
    stream.close()


def test_waiting_for_a_task_that_raised_waits_for_what_it_had_launched(machine: Machine) -> None:
    def fails() -> None:
        raise MemoryError

    stream = CudaStream("out of memory")
    measured = len(machine.slept)
    with pytest.raises(MemoryError):
        stream.submit(fails).wait()
    assert machine.slept[measured:] == [True]
    stream.close()


def test_closing_a_stream_waits_for_the_work_launched(machine: Machine) -> None:
    stream = CudaStream("closed")
    stream.submit(lambda: machine.done.append("launched"))
    stream.close()
    assert machine.done == ["launched", "synchronize"]


def test_a_stream_of_a_failed_device_can_be_closed(machine: Machine) -> None:
    stream = CudaStream("failed")
    machine.now = -1.0
    stream.close()
    assert machine.done == ["synchronize"]
