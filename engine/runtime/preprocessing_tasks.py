"""The first stage of a batch: its images are prepared by the host's threads, each for itself."""

import threading
import time
from concurrent.futures import Future, wait
from functools import partial

from medfocus.engine.runtime.batch_buffers import BatchBuffers
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import is_out_of_memory, no_memory_for
from medfocus.engine.runtime.metrics import Span
from medfocus.engine.runtime.worker_pool import WorkerPool
from medfocus.errors import ImageError, MedfocusError


class PreprocessingTasks:
    """The event that every row of a batch is prepared, or has failed.

    A row that fails has its error and leaves the others alone, so waiting raises nothing.

    Attributes:
        errors: one per row, None where it was prepared.
        spans: what each row took.
    """

    def __init__(
        self, host: WorkerPool, buffers: BatchBuffers, requests: list[ImageRequest]
    ) -> None:
        self._asked = time.perf_counter()
        self.errors: list[MedfocusError | None] = [None] * len(requests)
        self.spans: list[Span] = []
        self._futures: list[Future[None]] = [
            host.submit(partial(self._prepare_row, buffers, row, request.image.source))
            for row, request in enumerate(requests)
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

    def _prepare_row(self, buffers: BatchBuffers, row: int, source: str) -> None:
        begun = time.perf_counter()
        try:
            buffers.prepare(row)
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
