"""CUDA's streams as the pipeline's, through PyTorch; each is launched by a thread of its own."""

import time
from contextlib import suppress

import torch

from medfocus.engine.runtime.execution import Event, Task, ThreadEvent, ThreadStream

RENEWED = 600.0  # seconds that a clock is used; after them it still tells 0.06 ms
SAMPLES = 5  # of a clock's zero


class CudaEvent(ThreadEvent):
    """The end of work on the GPU; times are CUDA's, on the clock of `time.perf_counter`."""

    def __init__(self, clock: "_Clock") -> None:
        super().__init__()
        self._clock = clock
        self._begin, self.end = _event(), _event()

    def begin(self) -> None:
        """See `ThreadEvent`; on the current stream."""
        self._begin.record()

    def finish(self, error: BaseException | None = None) -> None:
        """See `ThreadEvent`; the work has been launched, and may still run."""
        try:
            self.end.record()
        except BaseException as failed:  # the device has failed meanwhile
            error = error or failed
        super().finish(error)

    def launched(self) -> None:
        """Let this thread wait until the work is launched; raise what that raised."""
        super().wait()

    def wait(self) -> None:
        """See `Event`."""
        super().wait()
        self.end.synchronize()
        self.begun, self.ended = (self._clock.read(event) for event in (self._begin, self.end))


class CudaStream(ThreadStream):
    """A CUDA stream, with the thread that launches its work, and an NVTX range a piece of work."""

    def __init__(self, name: str) -> None:
        self.cuda = torch.cuda.Stream()
        # On the same device, but a stream of their own: clocks wait for none of the work.
        self._clocks = torch.cuda.Stream(self.cuda.device)
        self._clock = _Clock(self._clocks)
        super().__init__(name)

    def close(self) -> None:
        """See `Stream`. What was launched has ended too, so that its buffers may be freed."""
        super().close()
        with suppress(RuntimeError):  # a device that has failed runs nothing more
            self.cuda.synchronize()

    def _event(self) -> CudaEvent:
        if time.perf_counter() - self._clock.began > RENEWED:
            self._clock = _Clock(self._clocks)
        return CudaEvent(self._clock)

    def _do(self, work: Task, after: Event | None, event: ThreadEvent) -> None:
        if isinstance(after, CudaEvent):
            after.launched()  # a CUDA event that was not recorded yet would be waited for in vain
            self.cuda.wait_event(after.end)
        elif after is not None:
            after.wait()
        with torch.cuda.nvtx.range(f"medfocus {self.name}"):
            event.begin()
            work()

    def _run(self) -> None:
        with torch.cuda.stream(self.cuda):
            super()._run()


class _Clock:
    """From CUDA's clock, which knows differences only, to that of `time.perf_counter`.

    A difference is a float32 of milliseconds: a clock that is old ticks coarsely. It is of events
    on one device. A thread that wakes late would shift all times, so of some zeros the one is kept
    that was waited for least.

    Args:
        stream: on the device of the events that are to be read, and idle.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        zeros = [_zero(stream) for _ in range(SAMPLES)]
        before, after, self._zero = min(zeros, key=lambda zero: zero[1] - zero[0])
        self.began = (before + after) / 2

    def read(self, event: torch.cuda.Event) -> float:
        """Seconds at which an event happened."""
        return self.began + float(self._zero.elapsed_time(event)) / 1e3


def _zero(stream: torch.cuda.Stream) -> tuple[float, float, torch.cuda.Event]:
    """The host's times before and after an event, and the event."""
    event, before = _event(), time.perf_counter()
    event.record(stream)
    event.synchronize()
    return before, time.perf_counter(), event


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
