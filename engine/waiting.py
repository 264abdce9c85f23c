"""Where jobs wait until they go into a batch together, and where their answers are given out."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from medfocus.engine.slot import Answer, Job
from medfocus.errors import MedfocusError, fresh

log = logging.getLogger(__name__)


class Waiting:
    """Jobs that are not answered; safe to share between threads.

    Args:
        max_batch: most images of a batch.
        max_wait: seconds for which a batch that is not full waits for more images.
        most_bytes: of decoded images, of all jobs that are not answered.

    Attributes:
        failure: why nothing more is taken, once that is so.
        bytes: of the images of all jobs that are not answered.
    """

    def __init__(self, max_batch: int, max_wait: float, most_bytes: int) -> None:
        self.max_batch, self._max_wait, self._most_bytes = max_batch, max_wait, most_bytes
        self.failure: MedfocusError | None = None
        self.bytes = 0
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._door = threading.Lock()  # who waits for room; small ones must not slip past it

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait together, once there is room for their images.

        Where nothing more is taken, that is their answer.
        """
        wanted = sum(job.image.pixels.nbytes for job in jobs)
        with self._door, self._changed:
            self._changed.wait_for(
                lambda: self.failure or not self.bytes or self.bytes + wanted <= self._most_bytes
            )
            self.bytes += wanted
            self._jobs.extend(jobs)
            self._changed.notify_all()
        if self.failure:
            self.stop(self.failure)

    def take(self) -> list[Job]:
        """The next batch, once there is one; none when nothing more is taken."""
        with self._changed:
            while not self.failure:
                self._changed.wait_for(lambda: self._jobs or self.failure)
                if self._jobs and self._max_wait > 0:
                    patience = self._jobs[0].submitted + self._max_wait - time.perf_counter()
                    self._changed.wait_for(
                        lambda: len(self._jobs) >= self.max_batch or self.failure, patience
                    )
                if batch := self._take():
                    return batch
        return []

    def _take(self) -> list[Job]:
        """The job that has waited longest, and those behind it with prompts of the same shape."""
        batch: list[Job] = []
        others: list[Job] = []
        while self._jobs and len(batch) < self.max_batch:
            job = self._jobs.popleft()
            if batch and job.prompts_shape != batch[0].prompts_shape:
                others.append(job)
            elif job.begun or job.answer.set_running_or_notify_cancel():
                job.begun = True
                batch.append(job)
            else:
                self._release(job)
        self._jobs.extendleft(reversed(others))
        return batch

    def put_back(self, jobs: Sequence[Job]) -> bool:
        """Let a batch that was too large wait again, in front, for batches of half its size.

        Returns:
            Whether it waits; not where nothing more is taken.
        """
        with self._changed:
            if self.failure:
                return False
            half = len(jobs) // 2
            if half < self.max_batch:
                self.max_batch = half
                log.warning("out of memory: at most %d images run together from now on", half)
            self._jobs.extendleft(reversed(jobs))
            self._changed.notify_all()
            return True

    def settle(self, job: Job, outcome: Answer | MedfocusError) -> None:
        """Give a job its answer, or its error."""
        with self._changed:
            self._release(job)
        if not (job.begun or job.answer.set_running_or_notify_cancel()):
            return  # its caller has given up
        if isinstance(outcome, MedfocusError):
            job.answer.set_exception(fresh(outcome))
        else:
            job.answer.set_result(outcome)

    def stop(self, why: MedfocusError) -> None:
        """Take nothing more, and settle what waits with `why`, or with an earlier failure."""
        with self._changed:
            self.failure = failure = self.failure or why
            jobs = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in jobs:
            self.settle(job, failure)

    def _release(self, job: Job) -> None:
        self.bytes -= job.image.pixels.nbytes
        self._changed.notify_all()
