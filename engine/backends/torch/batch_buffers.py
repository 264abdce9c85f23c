"""A batch's buffers for PyTorch on a GPU: one upload, everything else on the device."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.cuda_graph import Capture, captured
from medfocus.engine.backends.torch.device_images import DeviceImages
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.backends.torch.prompt_buffers import PromptBuffers
from medfocus.engine.preprocess.batch import (
    MASK_STRIDE,
    NO_REGION,
    pooled_cells,
    pooling,
)
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.models.graphs import ClassifierOutput, SegmenterOutput

Stage = Literal["segment", "classify"]


class TensorGraphs(Protocol):
    """The two graphs, on tensors of the device."""

    @property
    def embedding_size(self) -> int:
        """E."""

    def segment_tensors(self, image: Tensor, points: Tensor, labels: Tensor) -> SegmenterOutput:
        """See `Graphs.segment`."""

    def classify_tensors(
        self, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
    ) -> ClassifierOutput:
        """See `Graphs.classify`."""


class TorchBatchBuffers:
    """See `BatchBuffers`.

    Args:
        graphs: the backend.
        manifest: the engine's.
        count: number of rows, the most images of a batch.
        device: a GPU, the current one; or for tests the CPU, without pinned memory and CUDA graphs.
    """

    def __init__(
        self, graphs: TensorGraphs, manifest: Manifest, count: int, device: str | torch.device
    ) -> None:
        self._graphs, self._manifest = graphs, manifest
        pre = manifest.preprocessing
        mask = pre.segmenter.size // MASK_STRIDE
        cells = pooled_cells(pre, manifest.focus)

        def buffers(dtype: torch.dtype, *shape: int) -> HostDeviceBuffer:
            return HostDeviceBuffer(device, dtype, count, *shape)

        self._images = DeviceImages(pre, count, device)
        self._rows, self._cols = (buffers(torch.float32, cells, mask) for _ in range(2))
        self._prompts = PromptBuffers(device, count, np.shape(manifest.prompts.labels))
        self._logits, self._score = buffers(torch.float32, mask, mask), buffers(torch.float32)
        self._logits.device.fill_(NO_REGION)
        self._probabilities = buffers(torch.float32, len(manifest.classes))
        self._patch_focus = buffers(torch.float32, *2 * (pre.classifier.patch_grid,))
        self._embedding = buffers(torch.float32, graphs.embedding_size)
        self._focused = buffers(torch.bool)
        self._captured: dict[tuple[str, int], torch.cuda.CUDAGraph] = {}

    @property
    def nbytes(self) -> int:
        """See `BatchBuffers`; those on the device."""
        buffers = [
            value.device for value in vars(self).values() if isinstance(value, HostDeviceBuffer)
        ]
        nbytes = sum(tensor.nbytes for tensor in buffers)
        return nbytes + self._images.nbytes + self._prompts.nbytes

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """See `BatchBuffers`."""
        self._requests = requests
        self._images.begin([request.image for request in requests])
        side = self._manifest.preprocessing.segmenter.size
        self._prompts.write([request.prompts for request in requests], side)

    def prepare(self, row: int) -> None:
        """See `BatchBuffers`."""
        image = self._requests[row].image
        self._images.write(row)
        size = image.pixels.shape[0], image.pixels.shape[1]
        manifest = self._manifest
        weights = pooling(size, manifest.preprocessing, manifest.focus, image.pixel_aspect)
        for buffers, array in zip((self._rows, self._cols), weights, strict=True):
            buffers.host[row] = torch.from_numpy(array)

    @torch.inference_mode()
    def segment(self) -> None:
        """See `BatchBuffers`."""
        count = len(self._requests)
        self._upload(count)
        if self._manifest.focus.mode != "none":
            self.run("segment", count)

    def _upload(self, count: int) -> None:
        self._images.preprocess()
        for buffers in (self._rows, self._cols, self._prompts):
            buffers.up(count)

    @torch.inference_mode()
    def classify(self) -> None:
        """See `BatchBuffers`."""
        count = len(self._requests)
        self.run("classify", count)
        wanted = [self._probabilities, self._focused, self._score]
        if any(request.kept.masks for request in self._requests):
            wanted += [self._logits, self._patch_focus]
        if any(request.kept.embedding for request in self._requests):
            wanted.append(self._embedding)
        for buffers in wanted:
            buffers.down(count)

    def outputs(self, row: int) -> GraphOutputs:
        """See `BatchBuffers`."""
        kept = self._requests[row].kept
        return GraphOutputs(
            self._probabilities.host[row].numpy().copy(),
            bool(self._focused.host[row]),
            float(self._score.host[row]),
            self._logits.host[row].numpy().copy() if kept.masks else None,
            self._patch_focus.host[row].numpy().copy() if kept.masks else None,
            self._embedding.host[row].numpy().copy() if kept.embedding else None,
        )

    def end(self) -> None:
        """See `BatchBuffers`."""
        self._requests = ()
        self._images.end()

    def run(self, stage: Stage, count: int) -> None:
        """Run a stage on `count` rows: as a CUDA graph if one was captured, else eagerly."""
        work = self._work(stage)
        bucket = min((b for w, b in self._captured if w == work and b >= count), default=None)
        if bucket is None:
            self._eager(stage, count)
        else:
            self._captured[work, bucket].replay()

    def _work(self, stage: Stage) -> str:
        """What a CUDA graph does: a stage, and for callers' own prompts their shape."""
        own = stage == "segment" and self._prompts.shape != self._prompts.usual[0]
        return f"{stage} {self._prompts.shape}" if own else stage

    def _eager(self, stage: Stage, count: int) -> None:
        if stage == "segment":
            points, labels = self._prompts.tensors(count)
            found = self._graphs.segment_tensors(self._images.segmenter[:count], points, labels)
            self._logits.device[:count] = found.focus_logits
            self._score.device[:count] = found.score
        else:
            output = self._graphs.classify_tensors(
                self._images.classifier[:count],
                self._logits.device[:count],
                self._rows.device[:count],
                self._cols.device[:count],
            )
            self._probabilities.device[:count] = output.probabilities
            self._patch_focus.device[:count] = output.patch_focus
            self._focused.device[:count] = output.focused
            self._embedding.device[:count] = output.embedding

    @torch.inference_mode()
    def capture(self, buckets: Sequence[int], captures: "Captures") -> None:
        """Capture one CUDA graph per stage and bucket; for `segment` per usual shape of prompts.

        If a capture fails, its whole stage runs eagerly and is removed from `captures`, so that
        no other batch buffers capture into the same memory.
        """
        for stage in [*captures]:
            graphs: dict[tuple[str, int], torch.cuda.CUDAGraph] = {}
            shapes = self._prompts.usual[: None if stage == "segment" else 1]
            for shape, bucket in product(shapes, sorted(buckets, reverse=True)):
                self._prompts.shape = shape
                work = self._work(stage)
                graph = captured(
                    partial(self._eager, stage, bucket), captures[stage], f"{work}, {bucket} images"
                )
                if graph is None:
                    del captures[stage]
                    break
                graphs[work, bucket] = graph
            else:
                self._captured |= graphs


Captures = dict[Stage, Capture]


def captures_of(manifest: Manifest) -> Captures:
    """A `Capture` for each stage that can be captured."""
    mode = manifest.focus.mode
    stages: list[Stage] = [] if mode == "none" else ["segment"]
    if mode != "hard":  # its shapes depend on how many patches are kept
        stages.append("classify")
    return {
        stage: Capture(torch.cuda.graph_pool_handle(), torch.cuda.Stream(), set())
        for stage in stages
    }
