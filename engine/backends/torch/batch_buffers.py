"""A batch's buffers for PyTorch on a GPU: one upload, everything else on the device."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.cuda_graph import Capture, captured
from medfocus.engine.backends.torch.device_images import DeviceImages
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer, uploaded
from medfocus.engine.preprocess.batch import (
    MASK_STRIDE,
    NO_REGION,
    in_frame,
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
        cells, prompts = pooled_cells(pre, manifest.focus), np.shape(manifest.prompts.labels)

        def buffers(dtype: torch.dtype, *shape: int) -> HostDeviceBuffer:
            return HostDeviceBuffer(device, dtype, count, *shape)

        self._images = DeviceImages(pre, count, device)
        self._rows, self._cols = (buffers(torch.float32, cells, mask) for _ in range(2))
        self._points = buffers(torch.float32, *prompts, 2)
        self._labels = buffers(torch.int32, *prompts)
        self._logits, self._score = buffers(torch.float32, mask, mask), buffers(torch.float32)
        self._logits.device.fill_(NO_REGION)
        self._probabilities = buffers(torch.float32, len(manifest.classes))
        self._patch_focus = buffers(torch.float32, *2 * (pre.classifier.patch_grid,))
        self._embedding = buffers(torch.float32, graphs.embedding_size)
        self._focused = buffers(torch.bool)
        self._captured: dict[tuple[Stage, int], torch.cuda.CUDAGraph] = {}

    @property
    def nbytes(self) -> int:
        """See `BatchBuffers`; those on the device."""
        buffers = [
            value.device for value in vars(self).values() if isinstance(value, HostDeviceBuffer)
        ]
        return self._images.nbytes + sum(tensor.nbytes for tensor in buffers)

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """See `BatchBuffers`."""
        self._requests = requests
        self._images.begin([request.image for request in requests])
        size = self._manifest.preprocessing.segmenter.size
        arrays = [in_frame(request.prompts, size) for request in requests]
        points, labels = (
            torch.from_numpy(np.stack(column)) for column in zip(*arrays, strict=True)
        )
        self._own_prompts = None
        if labels.shape[1:] == self._labels.host.shape[1:]:
            self._points.host[: len(requests)], self._labels.host[: len(requests)] = points, labels
        else:
            self._own_prompts = points, labels

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
        self._images.preprocess()
        for buffers in (self._rows, self._cols, self._points, self._labels):
            buffers.up(count)
        if self._manifest.focus.mode != "none":
            self.run("segment", count)

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
        bucket = min((b for s, b in self._captured if s == stage and b >= count), default=None)
        if bucket is None or (stage == "segment" and self._own_prompts is not None):
            self._eager(stage, count)
        else:
            self._captured[stage, bucket].replay()

    def _eager(self, stage: Stage, count: int) -> None:
        if stage == "segment":
            points, labels = self._points.device[:count], self._labels.device[:count]
            if self._own_prompts is not None:
                points, labels = (uploaded(tensor, points.device) for tensor in self._own_prompts)
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
        """Capture one CUDA graph per stage and bucket.

        If a capture fails, its whole stage runs eagerly and is removed from `captures`, so that
        no other batch buffers capture into the same memory.
        """
        self._own_prompts = None
        for stage in [*captures]:
            graphs: dict[tuple[Stage, int], torch.cuda.CUDAGraph] = {}
            for bucket in sorted(buckets, reverse=True):
                work, name = partial(self._eager, stage, bucket), f"{stage}, {bucket} images"
                graph = captured(work, captures[stage], name)
                if graph is None:
                    del captures[stage]
                    break
                graphs[stage, bucket] = graph
            else:
                self._captured |= graphs


Captures = dict[Stage, Capture]


def captures_of(manifest: Manifest) -> Captures:
    """A `Capture` for each stage that can be captured."""
    mode = manifest.focus.mode
    stages: list[Stage] = [] if mode == "none" else ["segment"]
    if mode != "hard":  # its shapes depend on how many patches are kept
        stages.append("classify")
    return {stage: Capture(torch.cuda.graph_pool_handle(), torch.cuda.Stream()) for stage in stages}
