"""Dynamic batching: requests are queued here until they run in a batch, then resolved here."""

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from medfocus.engine.io.reading.byte_budget import ByteBudget
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.errors import MedfocusError, without_traceback

log = logging.getLogger(__name__)


# Seconds for which a batch waits for images that are being read, if it may not wait otherwise: for
# the next one, and for all of them. Small files arrive every few milliseconds.
_NEXT, _ALL = 0.02, 0.1


class RequestBatcher:
    """The queue of unresolved requests; safe to share between threads.

    A request whose future is cancelled before it has been in a batch is dropped at once.

    Args:
        max_batch: most images per batch.
        max_wait: seconds for which a batch that is not full waits for more images.
        budget: gets the bytes of a request's image back once it is resolved.

    Attributes:
        failure: why no more requests are accepted; None while they are.
    """

    def __init__(self, max_batch: int, max_wait: float, budget: ByteBudget) -> None:
        self.max_batch, self._max_wait, self._budget = max_batch, max_wait, budget
        self.failure: MedfocusError | None = None
        self._requests: deque[ImageRequest] = deque()
        self._announced = 0
        self._arrived = 0.0  # when a request was last queued
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._requests)

    def announce(self, count: int) -> None:
        """Say that `count` images will come soon; a negative count takes it back."""
        with self._changed:
            self._announced += count
            if self._announced <= 0:
                self._changed.notify_all()

    def put(self, requests: Sequence[ImageRequest]) -> None:
        """Queue requests; if `failure` is set, they are resolved with it."""
        with self._changed:
            self._requests.extend(requests)
            self._arrived = time.perf_counter()
            self._changed.notify_all()
        if self.failure:
            self.stop(self.failure)
        for request in requests:
            known = weakref.ref(request)  # whoever keeps the future must not keep the image
            request.future.add_done_callback(partial(self._drop_if_cancelled, known))

    def _drop_if_cancelled(
        self, known: weakref.ref[ImageRequest], future: "Future[GraphOutputs]"
    ) -> None:
        if future.cancelled() and (request := known()):
            with self._changed, suppress(ValueError):  # it was taken, or `stop` has it
                self._requests.remove(request)
                self._release(request)

    def take(self) -> list[ImageRequest]:
        """Wait for the next batch; an empty list once `failure` is set."""
        with self._changed:
            while not self.failure:
                self._changed.wait_for(lambda: self._requests or self.failure)
                if self._requests:
                    self._wait_for_more(self._requests[0].submitted)
                if batch := self._take():
                    return batch
        return []

    def _wait_for_more(self, since: float) -> None:
        """Wait until the batch is full, or its time is over."""
        while len(self._requests) < self.max_batch and not self.failure:
            if self._max_wait:
                until = since + self._max_wait
            elif self._announced > 0:
                until = min(since + _ALL, self._arrived + _NEXT)
            else:
                break
            if not self._changed.wait(max(until - time.perf_counter(), 0)):
                break

    def _take(self) -> list[ImageRequest]:
        """The oldest request, and those behind it whose prompts have the same shape."""
        batch: list[ImageRequest] = []
        others: list[ImageRequest] = []
        while self._requests and len(batch) < self.max_batch:
            request = self._requests.popleft()
            if batch and request.prompts_shape != batch[0].prompts_shape:
                others.append(request)
            elif request.begun or request.future.set_running_or_notify_cancel():
                request.begun = True
                batch.append(request)
            else:
                self._release(request)
        self._requests.extendleft(reversed(others))
        return batch

    def put_back(self, requests: Sequence[ImageRequest]) -> bool:
        """Requeue a batch that ran out of memory, first in line, and halve the batch size.

        Returns:
            Whether it was requeued; False once `failure` is set.
        """
        with self._changed:
            if self.failure:
                return False
            half = len(requests) // 2
            if half < self.max_batch:
                self.max_batch = half
                log.warning("out of memory: at most %d images run together from now on", half)
            self._requests.extendleft(reversed(requests))  # last, for a log may raise
            self._changed.notify_all()
            return True

    def settle(self, request: ImageRequest, outcome: GraphOutputs | MedfocusError) -> None:
        """Resolve a request with its outputs or its error, once."""
        if request.settled:
            return
        request.settled = True
        self._release(request)
        if not (request.begun or request.future.set_running_or_notify_cancel()):
            return  # cancelled by its caller
        if isinstance(outcome, MedfocusError):
            request.future.set_exception(without_traceback(outcome))
        else:
            request.future.set_result(outcome)

    def stop(self, why: MedfocusError) -> None:
        """Accept no more requests; resolve the queued ones with `why` or an earlier failure."""
        with self._changed:
            self.failure = failure = self.failure or why
            requests = list(self._requests)
            self._requests.clear()
            self._changed.notify_all()
        for request in requests:
            self.settle(request, failure)

    def _release(self, request: ImageRequest) -> None:
        self._budget.release(request.image.pixels.nbytes)
