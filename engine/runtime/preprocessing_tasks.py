"""The first stage of a batch: its images are preprocessed by the worker pool, one task each."""

import threading
import time
from concurrent.futures import Future, wait
from functools import partial

from medfocus.engine.runtime.batch_buffers import BatchBuffers
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import is_out_of_memory, no_memory_for
from medfocus.engine.runtime.metrics import Span
from medfocus.engine.worker_pool import WorkerPool
from medfocus.errors import ImageError, MedfocusError


class PreprocessingTasks:
    """The event that every image of a batch is preprocessed, or has failed.

    A failed image does not affect the others, so `wait` raises nothing; see `errors`. Before
    `start` there is nothing to wait for.

    Attributes:
        errors: one per row, None where the image was preprocessed.
        spans: one per row; valid after `wait`.
    """

    def __init__(self, buffers: BatchBuffers, requests: list[ImageRequest]) -> None:
        self._buffers, self._requests = buffers, requests
        self._submitted = time.perf_counter()
        self.errors: list[MedfocusError | None] = [None] * len(requests)
        self._spans: dict[int, Span] = {}
        self._futures: list[Future[None]] = []

    def start(self, workers: WorkerPool) -> None:
        """Queue the tasks."""
        for row in range(len(self._requests)):
            self._futures.append(workers.submit(partial(self._prepare_row, row)))

    @property
    def spans(self) -> list[Span]:
        """See above."""
        return [self._spans[row] for row in range(len(self._requests))]

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

    def _prepare_row(self, row: int) -> None:
        begun, request = time.perf_counter(), self._requests[row]
        try:
            self._buffers.prepare(row)
        except MedfocusError as error:
            self.errors[row] = error
        except BaseException as error:  # whatever it is, the row holds no image
            self.errors[row] = _preprocessing_error(request.image.source, error)
        lane, waited = threading.current_thread().name, begun - self._submitted
        queued = self._submitted - request.submitted
        self._spans[row] = Span("prepare", lane, begun, time.perf_counter(), waited, queued=queued)


def _preprocessing_error(source: str, error: BaseException) -> MedfocusError:
    if is_out_of_memory(error):
        # Halving the batch, as the graphs' stages do, would not help: the memory needed depends
        # on this image's own size, and the engine would stay slow for all later requests.
        return no_memory_for(source, "prepare", error)
    problem = f"cannot be prepared ({type(error).__name__})"  # its text may quote the file
    return ImageError(source, problem, "check the image, or report this")
