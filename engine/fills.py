"""The first stage of a batch: its images are prepared by the host's threads, each for itself."""

import threading
import time
from concurrent.futures import Future, wait
from functools import partial

from medfocus.engine.host import HostThreads
from medfocus.engine.memory import is_out_of_memory, no_memory_for
from medfocus.engine.slot import Job, Slot
from medfocus.engine.stats import Span
from medfocus.errors import ImageError, MedfocusError


class Fills:
    """The event that every row of a slot is filled, or has failed.

    A row that fails has its error and leaves the others alone, so waiting raises nothing.

    Attributes:
        errors: one a row, None where it was filled.
        spans: what each row took.
    """

    def __init__(self, host: HostThreads, slot: Slot, jobs: list[Job]) -> None:
        self._asked = time.perf_counter()
        self.errors: list[MedfocusError | None] = [None] * len(jobs)
        self.spans: list[Span] = []
        self._futures: list[Future[None]] = [
            host.submit(partial(self._fill, slot, row, job.image.source))
            for row, job in enumerate(jobs)
        ]

    @property
    def begun(self) -> float:
        """See `Event`."""
        return min(span.begun for span in self.spans)

    @property
    def ended(self) -> float:
        """See `Event`."""
        return max(span.ended for span in self.spans)

    def wait(self) -> None:
        """See `Event`."""
        wait(self._futures)

    def _fill(self, slot: Slot, row: int, source: str) -> None:
        begun = time.perf_counter()
        try:
            slot.fill(row)
        except MedfocusError as error:
            self.errors[row] = error
        except Exception as error:
            self.errors[row] = _unprepared(source, error)
        lane, waited = threading.current_thread().name, begun - self._asked
        self.spans.append(Span("prepare", lane, begun, time.perf_counter(), waited))


def _unprepared(source: str, error: Exception) -> MedfocusError:
    if is_out_of_memory(error):
        # Not the batch in halves, as where a stage is: what is missing goes by this image's own
        # size, and halves down to it alone would leave the engine slow for all that follow.
        return no_memory_for(source, "prepare", error)
    problem = f"cannot be prepared ({type(error).__name__}: {error})"
    return ImageError(source, problem, "check the image, or report this")
