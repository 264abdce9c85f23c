"""What a backend gives a pipeline to run on: batch buffers and the streams of the two graphs."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.batch_buffers import BatchBuffers, HostBatchBuffers
from medfocus.engine.runtime.execution import Event, Stream, ThreadStream
from medfocus.engine.runtime.graphs import Graphs
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.settings import Device, Prompts

BATCHES_ON_GPU = 3  # one in each stream, and one being preprocessed
UNUSUAL = Prompts((((0.5, 0.5), (0.25, 0.5), (0.75, 0.5)),), ((1, 1, 0),))


class BufferPool(NamedTuple):
    """Batch buffers of equal size, and a stream per graph; both graphs may share one stream."""

    buffers: list[BatchBuffers]
    segment: Stream
    classify: Stream

    def warm_up(self, manifest: Manifest, count: int) -> None:
        """Run `count` blank images through all buffers, before there is a pipeline.

        With the zero-shot prompts, and with one for which there is no CUDA graph: what runs without
        one has memory of its own.
        """
        side = manifest.preprocessing.segmenter.size
        blank = SourceImage(np.zeros((side, side, 3), np.uint8), "blank image")
        for buffers, prompts in product(self.buffers, (manifest.prompts, UNUSUAL)):
            self.run(buffers, [ImageRequest(blank, prompts) for _ in range(count)])

    def run(self, buffers: BatchBuffers, requests: Sequence[ImageRequest]) -> list[GraphOutputs]:
        """Run a batch through one of the buffers to its end, before there is a pipeline."""
        self._run_stages(buffers, requests)
        outputs = [buffers.outputs(row) for row in range(len(requests))]
        buffers.end()
        return outputs

    def seconds(self, buffers: BatchBuffers, requests: Sequence[ImageRequest]) -> float:
        """As `run`, for the seconds that the two stages take."""
        stages = self._run_stages(buffers, requests)
        buffers.end()
        return sum(stage.ended - stage.begun for stage in stages)

    def _run_stages(
        self, buffers: BatchBuffers, requests: Sequence[ImageRequest]
    ) -> tuple[Event, Event]:
        """Both stages' events, which have happened."""
        buffers.begin(requests)
        for row in range(len(requests)):
            buffers.prepare(row)
        segmented = self.segment.submit(buffers.segment)
        classified = self.classify.submit(buffers.classify, after=segmented)
        classified.wait()
        segmented.wait()  # has ended before; on CUDA this reads its times
        return segmented, classified

    def close(self) -> None:
        """End the streams."""
        self.segment.close()
        self.classify.close()


def host_buffer_pool(graphs: Graphs, device: Device, manifest: Manifest, images: int) -> BufferPool:
    """The pool of a backend whose graphs take and return arrays, and return when computed.

    Args:
        graphs: the backend.
        device: where it computes; decides how many batches are under way at once.
        manifest: the engine's.
        images: capacity of each batch.
    """
    batches = 2 if device == "cpu" else BATCHES_ON_GPU
    buffers: list[BatchBuffers] = [
        HostBatchBuffers(graphs, manifest, images) for _ in range(batches)
    ]
    segment = ThreadStream("segment")
    # On a CPU each graph uses all cores: run at the same time, they would only slow each other.
    classify = segment if device == "cpu" else ThreadStream("classify")
    return BufferPool(buffers, segment, classify)
