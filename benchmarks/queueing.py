"""`Engine.stream` as a queueing network, simulated event by event: what would it do elsewhere?

    read ─► waiting ─► prepare ─► segment ─► classify ─► answered
    hosts               hosts      a device   it, or a stream beside it

The rules are those of engine/requests.py and engine/pipeline.py: sources are read a few ahead of
those needed and taken in their order, images wait until a slot of the ring is free, whoever waits
goes together, a slot is free again once its batch is answered, and the caller takes answers in
order before more sources than a little over the ring's room. Times are drawn from those that a real
run took.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from medfocus.engine.requests import READ_AHEAD


@dataclass(frozen=True)
class StageTimes:
    """Seconds that a real run took, a number a piece of work.

    Attributes:
        read, prepare: of an image.
        segment, classify: of an image's share of a batch.
    """

    read: Sequence[float]
    prepare: Sequence[float]
    segment: Sequence[float]
    classify: Sequence[float]


@dataclass(frozen=True)
class Place:
    """Where it runs.

    Attributes:
        hosts: threads that read and prepare.
        devices: that segment and classify; each has its own ring.
        slots: of a ring.
        max_batch: most images that run together.
        shared: both models on one stream, as on a CPU.
        slower_read: seconds that each read takes longer.
    """

    hosts: int
    devices: int = 1
    slots: int = 2
    max_batch: int = 32
    shared: bool = True
    slower_read: float = 0.0


def images_per_second(times: StageTimes, place: Place, images: int, seed: int = 0) -> float:
    """Of a stream of so many images, the first read and the last answer included."""
    return images / _Stream(times, place, images, random.Random(seed)).run()


@dataclass(eq=False)
class _Server:
    """Does one piece of work at a time, first come, first served; `size` of them at once."""

    clock: "_Clock"
    size: int
    busy: int = 0
    queue: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def submit(self, seconds: float, done: Callable[[], None]) -> None:
        self.queue.append((seconds, done))
        self._begin()

    def _begin(self) -> None:
        while self.queue and self.busy < self.size:
            seconds, done = self.queue.popleft()
            self.busy += 1
            self.clock.after(seconds, partial(self._end, done))

    def _end(self, done: Callable[[], None]) -> None:
        self.busy -= 1
        done()
        self._begin()


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def run(self) -> float:
        """Until nothing is left to happen; the time of the last event."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.now


@dataclass(eq=False)
class _Work:
    """An image that is read, or a batch that is answered: what is taken in order."""

    images: int
    done: bool = False


class _Stream:
    def __init__(
        self, times: StageTimes, place: Place, images: int, generator: random.Random
    ) -> None:
        self.times, self.place, self.images = times, place, images
        self.draw = generator.choice
        self.clock = _Clock()
        self.hosts = _Server(self.clock, place.hosts)
        self.segment = [_Server(self.clock, 1) for _ in range(place.devices)]
        self.classify = [_Server(self.clock, 1) for _ in self.segment]
        self.free = deque(device for _ in range(place.slots) for device in range(place.devices))
        self.reading: deque[_Work] = deque()
        self.batches: deque[_Work] = deque()
        self.begun = self.taken = self.gathered = self.waiting = self.answered = 0

    def run(self) -> float:
        self._pull()
        seconds = self.clock.run()
        assert self.answered == self.images
        return seconds

    def _pull(self) -> None:
        """The caller begins to read sources and takes what was read, both in their order."""
        place = self.place
        room = place.max_batch * (place.slots * place.devices + 1)
        while self.taken - self.answered <= room:
            if self.reading and self.reading[0].done:
                self.reading.popleft()
                self.taken += 1
                self.gathered += 1
                crowded = self.taken - self.answered > room
                last = self.taken == self.images
                if self.gathered == place.max_batch or crowded or last:
                    self.waiting += self.gathered
                    self.gathered = 0
                    self._launch()
            elif self.begun < self.images and len(self.reading) <= READ_AHEAD:
                self.begun += 1
                image = _Work(1)
                self.reading.append(image)
                seconds = self.draw(self.times.read) + place.slower_read
                self.hosts.submit(seconds, partial(self._have_read, image))
            else:
                break

    def _have_read(self, image: _Work) -> None:
        image.done = True
        self._pull()

    def _launch(self) -> None:
        """A batch into each slot that is free."""
        while self.free and self.waiting:
            device = self.free.popleft()
            batch = _Work(min(self.waiting, self.place.max_batch))
            self.batches.append(batch)
            self.waiting -= batch.images
            left = [batch.images]
            for _ in range(batch.images):
                prepared = partial(self._prepared, device, batch, left)
                self.hosts.submit(self.draw(self.times.prepare), prepared)

    def _prepared(self, device: int, batch: _Work, left: list[int]) -> None:
        left[0] -= 1
        if left[0]:
            return
        segment, classify = (
            batch.images * self.draw(times) for times in (self.times.segment, self.times.classify)
        )
        answered = partial(self._answered, device, batch)
        if self.place.shared:  # a batch's two models before the next batch
            self.segment[device].submit(segment + classify, answered)
        else:
            then = partial(self.classify[device].submit, classify, answered)
            self.segment[device].submit(segment, then)

    def _answered(self, device: int, batch: _Work) -> None:
        batch.done = True
        self.free.append(device)
        self._launch()
        while self.batches and self.batches[0].done:
            self.answered += self.batches.popleft().images
        self._pull()
