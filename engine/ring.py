"""What a pipeline runs on: the slots of its ring, and its two streams."""

from typing import NamedTuple

import numpy as np

from medfocus.engine.backends import Backend
from medfocus.engine.images import SourceImage
from medfocus.engine.manifest import Manifest
from medfocus.engine.slot import HostSlot, Job, Slot
from medfocus.engine.streams import Stream, ThreadStream

BATCHES_ON_GPU = 3  # one in each stream, one being prepared


class Ring(NamedTuple):
    """Slots of equal size, and the streams for the two graphs; one stream may serve as both."""

    slots: list[Slot]
    segment: Stream
    classify: Stream

    def warm_up(self, manifest: Manifest, count: int) -> None:
        """Run `count` blank images through every slot, before there is a pipeline."""
        side = manifest.preprocessing.segmenter.size
        blank = SourceImage(np.zeros((side, side, 3), np.uint8), "blank image")
        for slot in self.slots:
            slot.begin([Job(blank, manifest.prompts) for _ in range(count)])
            for row in range(count):
                slot.fill(row)
            segmented = self.segment.submit(slot.segment)
            self.classify.submit(slot.classify, after=segmented).wait()
            slot.end()

    def close(self) -> None:
        """End the streams."""
        self.segment.close()
        self.classify.close()


def host_ring(backend: Backend, manifest: Manifest, images: int) -> Ring:
    """For backends that take arrays and give arrays, and return once they have computed."""
    batches = 2 if backend.device == "cpu" else BATCHES_ON_GPU
    slots: list[Slot] = [HostSlot(backend, manifest, images) for _ in range(batches)]
    segment = ThreadStream("segment")
    # On a CPU both models use all cores: side by side they would only hinder each other.
    classify = segment if backend.device == "cpu" else ThreadStream("classify")
    return Ring(slots, segment, classify)
