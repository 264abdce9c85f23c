"""A batch's buffers for PyTorch on a GPU: one upload, everything else on the device.

Images are uploaded as read and resized on the device, for both models. An image larger than its
share of the upload is resized by the host first. In the buffers images of one size are contiguous,
whatever their order in the batch.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.torch.cuda_graph import Capture, captured
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.backends.torch.prompt_buffers import PromptBuffers
from medfocus.engine.backends.torch.resize import classifier_image, normalise, segmenter_image
from medfocus.engine.backends.torch.upload import Group, Size, pack
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import (
    MASK_STRIDE,
    NO_REGION,
    classifier_view,
    pooled_cells,
    pooling,
)
from medfocus.engine.preprocess.geometry import resized_size
from medfocus.engine.preprocess.resize import segmenter_pixels
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest
from medfocus.models.graphs import ClassifierOutput, SegmenterOutput

# Limit on an image resized for CLIP, before the crop, as a multiple of CLIP's input: a long, thin
# image must not exhaust the device's memory.
MOST_RESIZED = 16

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
        self._first, self._second = pre.segmenter, pre.classifier
        size, mask = self._second.size, self._first.size // MASK_STRIDE
        cells = pooled_cells(pre, manifest.focus)
        self._split = 3 * self._first.size**2  # bytes of a share before the classifier's image
        self._share = self._split + 3 * size**2

        def buffers(dtype: torch.dtype, *shape: int) -> HostDeviceBuffer:
            return HostDeviceBuffer(device, dtype, count, *shape)

        self._pixels = HostDeviceBuffer(device, torch.uint8, count * self._share)
        self._rows, self._cols = (buffers(torch.float32, cells, mask) for _ in range(2))
        self._prompts = PromptBuffers(device, count, np.shape(manifest.prompts.labels))
        self._image = torch.zeros(count, 3, self._first.size, self._first.size, device=device)
        self._seen = torch.zeros(count, 3, size, size, device=device)
        self._logits, self._score = buffers(torch.float32, mask, mask), buffers(torch.float32)
        self._logits.device.fill_(NO_REGION)
        self._probabilities = buffers(torch.float32, len(manifest.classes))
        self._patch_focus = buffers(torch.float32, *2 * (self._second.patch_grid,))
        self._embedding = buffers(torch.float32, graphs.embedding_size)
        self._focused = buffers(torch.bool)
        self._first_scale, self._second_scale = (
            [torch.tensor(value, device=device).view(3, 1, 1) for value in (part.mean, part.std)]
            for part in (self._first, self._second)
        )
        self._captured: dict[tuple[str, int], torch.cuda.CUDAGraph] = {}

    @property
    def nbytes(self) -> int:
        """See `BatchBuffers`; those on the device."""
        buffers = [
            value.device for value in vars(self).values() if isinstance(value, HostDeviceBuffer)
        ]
        tensors = (*buffers, self._image, self._seen)
        return sum(tensor.nbytes for tensor in tensors) + self._prompts.nbytes

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """See `BatchBuffers`."""
        self._requests = requests
        self._sizes = [self._size(request.image) for request in requests]
        self._packing = pack(self._sizes, self._share)
        ordered = [requests[image].prompts for image in self._packing.order]
        self._prompts.write(ordered, self._first.size)

    def _size(self, image: SourceImage) -> Size | None:
        """The size in which an image is uploaded; None if the host is to resize it first."""
        second = self._second
        height, width = image.pixels.shape[:2]
        aspect = image.pixel_aspect
        rows, columns = resized_size(height, width, second.size, second.resize_mode, aspect)
        small = rows * columns <= MOST_RESIZED * second.size**2
        return (height, width, aspect) if small and image.pixels.nbytes <= self._share else None

    def prepare(self, row: int) -> None:
        """See `BatchBuffers`."""
        image = self._requests[row].image
        place, into = self._packing.rows[row], self._pixels.host[self._packing.uploads[row]].numpy()
        if self._sizes[row] is not None:
            into[:] = image.pixels.reshape(-1)
        else:
            into[self._split :] = classifier_view(image, self._manifest.preprocessing).reshape(-1)
            into[: self._split] = segmenter_pixels(image.pixels, self._first.size).reshape(-1)
        size = image.pixels.shape[0], image.pixels.shape[1]
        manifest = self._manifest
        weights = pooling(size, manifest.preprocessing, manifest.focus, image.pixel_aspect)
        for buffers, array in zip((self._rows, self._cols), weights, strict=True):
            buffers.host[place] = torch.from_numpy(array)

    @torch.inference_mode()
    def segment(self) -> None:
        """See `BatchBuffers`."""
        count = len(self._requests)
        self._pixels.up(self._packing.nbytes)
        for buffers in (self._rows, self._cols, self._prompts):
            buffers.up(count)
        for group in self._packing.groups:
            self._preprocess(group)
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
        place, kept = self._packing.rows[row], self._requests[row].kept
        return GraphOutputs(
            self._probabilities.host[place].numpy().copy(),
            bool(self._focused.host[place]),
            float(self._score.host[place]),
            self._logits.host[place].numpy().copy() if kept.masks else None,
            self._patch_focus.host[place].numpy().copy() if kept.masks else None,
            self._embedding.host[place].numpy().copy() if kept.embedding else None,
        )

    def end(self) -> None:
        """See `BatchBuffers`."""
        self._requests = ()

    def _preprocess(self, group: Group) -> None:
        """Resize and normalise the images of one size, for both models."""
        first, second = self._first, self._second
        pixels = self._pixels.device[group.upload]
        if group.size is None:
            shares = pixels.view(-1, self._share)
            cropped = _channels_first(shares[:, self._split :], second.size, second.size)
            squashed = _channels_first(shares[:, : self._split], first.size, first.size)
        else:
            height, width, aspect = group.size
            image = _channels_first(pixels, height, width)
            cropped = classifier_image(image, second, aspect)
            squashed = segmenter_image(image, first.size)
        self._image[group.rows] = normalise(squashed, *self._first_scale)
        self._seen[group.rows] = normalise(cropped, *self._second_scale)

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
            found = self._graphs.segment_tensors(self._image[:count], points, labels)
            self._logits.device[:count] = found.focus_logits
            self._score.device[:count] = found.score
        else:
            output = self._graphs.classify_tensors(
                self._seen[:count],
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


def _channels_first(pixels: Tensor, height: int, width: int) -> Tensor:
    """uint8 (n, H·W·3) -> int32 (n, 3, H, W)."""
    return pixels.reshape(-1, height, width, 3).permute(0, 3, 1, 2).int().contiguous()
