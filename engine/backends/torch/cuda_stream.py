"""CUDA streams for the pipeline, through PyTorch; each has a thread that launches its work."""

import time
from contextlib import suppress

import torch

from medfocus.engine.runtime.execution import Event, Task, ThreadEvent, ThreadStream

CLOCK_SECONDS = 600.0  # a clock's age at which it is replaced; its resolution is then 0.06 ms
ZERO_SAMPLES = 5  # measurements of a clock's zero; the best one is used


class CudaEvent(ThreadEvent):
    """The end of a task's GPU work; times are CUDA's, on the clock of `time.perf_counter`.

    Whoever waits for it sleeps. By default CUDA's host waits spin: they end some 10 µs earlier,
    and meanwhile take a core that preprocessing and launching have a use for.
    """

    def __init__(self, clock: "_Clock") -> None:
        super().__init__()
        self._clock = clock
        self._begin = torch.cuda.Event(enable_timing=True)  # no host waits for it
        self.end = torch.cuda.Event(enable_timing=True, blocking=True)

    def begin(self) -> None:
        """See `ThreadEvent`; records on the current stream."""
        self._begin.record()

    def finish(self, error: BaseException | None = None) -> None:
        """See `ThreadEvent`; the GPU work has been launched and may still run."""
        try:
            self.end.record()
        except BaseException as failed:  # the device has failed in the meantime
            error = error or failed
        super().finish(error)

    def launched(self) -> None:
        """Block until the task has launched its work; raises what the task raised."""
        super().wait()

    def wait(self) -> None:
        """See `Event`; of a task that raised, what it had launched has ended too."""
        try:
            super().wait()
        except BaseException:
            # A failed device has no work left.
            with suppress(RuntimeError), torch.cuda.device(self._clock.device):
                self.end.synchronize()
            raise
        # In a thread whose own GPU is another, which would get a context for this.
        with torch.cuda.device(self._clock.device):
            self.end.synchronize()
            self.begun, self.ended = (self._clock.read(event) for event in (self._begin, self.end))


class CudaStream(ThreadStream):
    """A CUDA stream and the thread that launches its work, with one NVTX range per task."""

    def __init__(self, name: str) -> None:
        self.cuda = torch.cuda.Stream()
        # Clocks get a stream of their own on the same device, so that they wait for no work.
        self._clocks = torch.cuda.Stream(self.cuda.device)
        self._clock = _Clock(self._clocks)
        super().__init__(name)

    def close(self) -> None:
        """See `Stream`. The GPU work has ended too, so that its buffers may be freed."""
        super().close()
        with suppress(RuntimeError):  # a failed device has no work left
            self.cuda.synchronize()

    def _event(self) -> CudaEvent:
        if time.perf_counter() - self._clock.began > CLOCK_SECONDS:
            self._clock = _Clock(self._clocks)
        return CudaEvent(self._clock)

    def _execute(self, task: Task, after: Event | None, event: ThreadEvent) -> None:
        if isinstance(after, CudaEvent):
            after.launched()  # CUDA does not wait for an event that was not recorded yet
            self.cuda.wait_event(after.end)
        elif after is not None:
            after.wait()
        with torch.cuda.nvtx.range(f"medfocus {self.name}"):
            event.begin()
            task()

    def _run(self) -> None:
        with torch.cuda.stream(self.cuda):
            super()._run()


class _Clock:
    """Converts CUDA event times, which are differences only, to the clock of `time.perf_counter`.

    A difference is a float32 of milliseconds, so the resolution decreases with the clock's age,
    and both events must be on one device. A thread that wakes up late would shift all times, so
    the zero is measured several times and the measurement with the shortest wait is kept.

    Args:
        stream: idle, on the device of the events to be read.

    Attributes:
        device: that device.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.device = stream.device
        with torch.cuda.device(self.device):
            zeros = [_zero(stream) for _ in range(ZERO_SAMPLES)]
        before, after, self._zero = min(zeros, key=lambda zero: zero[1] - zero[0])
        self.began = (before + after) / 2

    def read(self, event: torch.cuda.Event) -> float:
        """When an event happened, in seconds."""
        return self.began + float(self._zero.elapsed_time(event)) / 1e3


def _zero(stream: torch.cuda.Stream) -> tuple[float, float, torch.cuda.Event]:
    """Host times before and after an event, and the event; spins, to see its end at once."""
    event, before = torch.cuda.Event(enable_timing=True), time.perf_counter()
    event.record(stream)
    event.synchronize()
    return before, time.perf_counter(), event
