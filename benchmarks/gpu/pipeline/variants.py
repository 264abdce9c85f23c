"""Other ways to run the pipeline on a GPU, to try where a goal is missed: benchmarks only.

python -m medfocus.benchmarks.gpu.pipeline.measure OUT.json --variant "copy stream"
"""

import torch

from medfocus.benchmarks.baselines.models import OURS
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import (
    Stage,
    TorchBatchBuffers,
    captures_of,
)
from medfocus.engine.backends.torch.cuda_stream import CudaStream
from medfocus.engine.runtime.buffer_pool import BATCHES_ON_GPU, BufferPool

COPY_STREAM, ONE_GRAPH = "copy stream", "one graph"


class CopyStreamBuffers(TorchBatchBuffers):
    """Uploads and resizes on a stream of its own, while the batch before is segmented.

    As the pipeline is, both are done on the segmenter's stream, before its graph.
    """

    copies: torch.cuda.Stream

    def _upload(self, count: int) -> None:
        # The buffers are free: the pool gives them out once their last batch has ended.
        with torch.cuda.stream(self.copies):
            super()._upload(count)
        torch.cuda.current_stream().wait_stream(self.copies)


class OneGraphBuffers(TorchBatchBuffers):
    """Both models in one CUDA graph per batch size, on one stream.

    Nothing overlaps, but a batch has one launch instead of two and an event.
    """

    def run(self, stage: Stage, count: int) -> None:
        """`segment` runs both stages, `classify` nothing."""
        if stage == "segment":
            super().run(stage, count)

    def _eager(self, stage: Stage, count: int) -> None:
        super()._eager(stage, count)
        if stage == "segment":
            super()._eager("classify", count)


KINDS = {OURS: TorchBatchBuffers, COPY_STREAM: CopyStreamBuffers, ONE_GRAPH: OneGraphBuffers}
VARIANTS = tuple(KINDS)


def variant_pool(name: str, runtime: TorchBackend, manifest: Manifest, images: int) -> BufferPool:
    """As `TorchBackend.buffer_pool` on a GPU, for a name in `VARIANTS`."""
    with runtime._current():
        kind, captures = KINDS[name], captures_of(manifest)
        if kind is OneGraphBuffers:
            del captures["classify"]  # a part of the segmenter's
        buffers = [kind(runtime, manifest, images, runtime._place) for _ in range(BATCHES_ON_GPU)]
        copies = torch.cuda.Stream()
        for one in buffers:
            if isinstance(one, CopyStreamBuffers):
                one.copies = copies
            one.capture(sorted({*manifest.buckets, images}), captures)
        torch.cuda.synchronize()
        segment = CudaStream("segment")
        return BufferPool(
            [*buffers], segment, segment if kind is OneGraphBuffers else CudaStream("classify")
        )
