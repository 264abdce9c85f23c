"""A batch's buffers for PyTorch on a GPU: one upload, everything else on the device.

An image goes up as it was read and is resized there, for both models. One that is larger than its
share of the upload is resized by the host first.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.backends.torch_preprocess import classifier_image, normalise, segmenter_image
from medfocus.engine.manifest import Manifest
from medfocus.engine.prepare import MASK_STRIDE, NO_REGION, in_frame, pooled_cells, pooling
from medfocus.engine.preprocess import checked_size, classifier_pixels, segmenter_pixels
from medfocus.engine.slot import Answer, Job
from medfocus.models.graphs import ClassifierOutput, SegmenterOutput

# Pixels of a resized and not yet cropped image, as a multiple of CLIP's: no long, thin image may
# take the device's memory.
MOST_RESIZED = 16

log = logging.getLogger(__name__)
Stage = Literal["segment", "classify"]


class TensorGraphs(Protocol):
    """The two graphs on the device's tensors."""

    def segment_tensors(self, image: Tensor, points: Tensor, labels: Tensor) -> SegmenterOutput:
        """See `Graphs.segment`."""

    def classify_tensors(
        self, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
    ) -> ClassifierOutput:
        """See `Graphs.classify`."""


class _Mirror:
    """The same memory on the host, where it is pinned for CUDA, and on the device."""

    def __init__(self, device: str, dtype: torch.dtype, *shape: int) -> None:
        self.host = torch.zeros(shape, dtype=dtype, pin_memory=device == "cuda")
        self.device = torch.zeros(shape, dtype=dtype, device=device)

    def up(self, count: int) -> None:
        """Begin to copy `count` rows to the device."""
        self.device[:count].copy_(self.host[:count], non_blocking=True)

    def down(self, count: int) -> None:
        """Begin to copy `count` rows to the host."""
        self.host[:count].copy_(self.device[:count], non_blocking=True)


class TorchSlot:
    """See `Slot`.

    Args:
        graphs: what runs.
        manifest: the engine's.
        count: images that there is room for.
        device: `cuda`; on `cpu` the same, without pinned memory and CUDA graphs.
    """

    def __init__(self, graphs: TensorGraphs, manifest: Manifest, count: int, device: str) -> None:
        self._graphs, self._manifest = graphs, manifest
        pre = manifest.preprocessing
        self._first, self._second = pre.segmenter, pre.classifier
        size, mask = self._second.size, self._first.size // MASK_STRIDE
        cells, prompts = pooled_cells(pre, manifest.focus), np.shape(manifest.prompts.labels)
        self._split = 3 * self._first.size**2  # bytes of a row before the classifier's image
        share = self._split + 3 * size**2

        def mirror(dtype: torch.dtype, *shape: int) -> _Mirror:
            return _Mirror(device, dtype, count, *shape)

        self._pixels = mirror(torch.uint8, share)
        self._rows, self._cols = (mirror(torch.float32, cells, mask) for _ in range(2))
        self._points = mirror(torch.float32, *prompts, 2)
        self._labels = mirror(torch.int32, *prompts)
        self._image = torch.zeros(count, 3, self._first.size, self._first.size, device=device)
        self._seen = torch.zeros(count, 3, size, size, device=device)
        self._logits, self._score = mirror(torch.float32, mask, mask), mirror(torch.float32)
        self._logits.device.fill_(NO_REGION)
        self._probabilities = mirror(torch.float32, len(manifest.classes))
        self._patch_focus = mirror(torch.float32, *2 * (self._second.patch_grid,))
        self._focused = mirror(torch.bool)
        self._first_scale, self._second_scale = (
            [torch.tensor(value, device=device).view(3, 1, 1) for value in (part.mean, part.std)]
            for part in (self._first, self._second)
        )
        self._sizes: list[tuple[int, int] | None] = [None] * count
        self._captured: dict[tuple[Stage, int], torch.cuda.CUDAGraph] = {}

    @property
    def nbytes(self) -> int:
        """See `Slot`; on the device."""
        mirrors = [value.device for value in vars(self).values() if isinstance(value, _Mirror)]
        return sum(tensor.nbytes for tensor in (*mirrors, self._image, self._seen))

    def begin(self, jobs: Sequence[Job]) -> None:
        """See `Slot`."""
        self._jobs = jobs
        arrays = [in_frame(job.prompts, self._first.size) for job in jobs]
        points, labels = (
            torch.from_numpy(np.stack(column)) for column in zip(*arrays, strict=True)
        )
        self._own_prompts = None
        if labels.shape[1:] == self._labels.host.shape[1:]:
            self._points.host[: len(jobs)], self._labels.host[: len(jobs)] = points, labels
        else:
            self._own_prompts = points, labels

    def fill(self, row: int) -> None:
        """See `Slot`."""
        image, second = self._jobs[row].image, self._second
        height, width = image.pixels.shape[:2]
        self._sizes[row] = None
        resized = checked_size(height, width, second.size, second.resize_mode, image.source)
        fits = image.pixels.nbytes <= self._pixels.host.shape[1]
        into = self._pixels.host[row].numpy()
        if fits and resized[0] * resized[1] <= MOST_RESIZED * second.size**2:
            into[: image.pixels.nbytes] = image.pixels.reshape(-1)
            self._sizes[row] = height, width
        else:
            into[: self._split] = segmenter_pixels(image.pixels, self._first.size).reshape(-1)
            into[self._split :] = classifier_pixels(
                image.pixels, second.size, second.resize_mode, second.interpolation, image.source
            ).reshape(-1)
        weights = pooling((height, width), self._manifest.preprocessing, self._manifest.focus)
        for mirror, array in zip((self._rows, self._cols), weights, strict=True):
            mirror.host[row] = torch.from_numpy(array)

    @torch.inference_mode()
    def segment(self) -> None:
        """See `Slot`."""
        count = len(self._jobs)
        for mirror in (self._pixels, self._rows, self._cols, self._points, self._labels):
            mirror.up(count)
        for size in set(self._sizes[:count]):
            self._preprocess([row for row in range(count) if self._sizes[row] == size], size)
        if self._manifest.focus.mode != "none":
            self.run("segment", count)

    @torch.inference_mode()
    def classify(self) -> None:
        """See `Slot`."""
        count = len(self._jobs)
        self.run("classify", count)
        masks, found = (self._logits, self._score), (self._probabilities, self._patch_focus)
        for mirror in (*masks, *found, self._focused):
            mirror.down(count)

    def answer(self, row: int) -> Answer:
        """See `Slot`."""
        return Answer(
            self._probabilities.host[row].numpy().copy(),
            bool(self._focused.host[row]),
            float(self._score.host[row]),
            self._logits.host[row].numpy().copy(),
            self._patch_focus.host[row].numpy().copy(),
        )

    def end(self) -> None:
        """See `Slot`."""
        self._jobs = ()

    def _preprocess(self, rows: list[int], size: tuple[int, int] | None) -> None:
        """Resize and normalise the images of one size, for both models."""
        first, second = self._first, self._second
        everyone = rows == list(range(len(rows)))
        chosen = slice(len(rows)) if everyone else torch.tensor(rows, device=self._image.device)
        pixels = self._pixels.device[chosen]  # (n, share)
        if size is None:
            seen = _channels_first(pixels[:, self._split :], second.size, second.size)
            stretched = _channels_first(pixels[:, : self._split], first.size, first.size)
        else:
            image = _channels_first(pixels[:, : 3 * size[0] * size[1]], *size)
            seen, stretched = classifier_image(image, second), segmenter_image(image, first.size)
        self._image[chosen] = normalise(stretched, *self._first_scale)
        self._seen[chosen] = normalise(seen, *self._second_scale)

    def run(self, stage: Stage, count: int) -> None:
        """A stage's graph on `count` rows: a CUDA graph where one was captured, eager where not."""
        bucket = min((b for s, b in self._captured if s == stage and b >= count), default=None)
        if bucket is None or (stage == "segment" and self._own_prompts is not None):
            self._eager(stage, count)
        else:
            self._captured[stage, bucket].replay()

    def _eager(self, stage: Stage, count: int) -> None:
        if stage == "segment":
            points, labels = self._points.device[:count], self._labels.device[:count]
            if self._own_prompts is not None:
                points, labels = (tensor.to(points.device) for tensor in self._own_prompts)
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

    @torch.inference_mode()
    def capture(self, buckets: Sequence[int], captures: "Captures") -> None:
        """Capture a CUDA graph a bucket a stage. Where capture is refused, runs stay eager."""
        self._own_prompts = None
        for stage, (pool, stream) in captures.items():
            for bucket in sorted(buckets, reverse=True):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # kernels are compiled and chosen beforehand
                    for _ in range(2):
                        self._eager(stage, bucket)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                try:
                    with torch.cuda.graph(
                        graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                    ):
                        self._eager(stage, bucket)
                except RuntimeError as error:
                    log.warning("%s, %d images: no CUDA graph (%s)", stage, bucket, error)
                else:
                    self._captured[stage, bucket] = graph
                torch.cuda.synchronize()


class Capture(NamedTuple):
    """What the CUDA graphs of a stage, of all slots, have in common.

    They run one after another on the stage's stream and leave nothing behind but what they write
    into buffers, so they share memory. They are captured on a stream of their own, for cuBLAS
    keeps a workspace a stream, which two stages' graphs must not share.
    """

    pool: Any
    stream: torch.cuda.Stream


Captures = dict[Stage, Capture]


def captures_of(manifest: Manifest) -> Captures:
    """For each stage that can be captured."""
    mode = manifest.focus.mode
    stages: list[Stage] = [] if mode == "none" else ["segment"]
    if mode != "hard":  # whose shapes depend on how many patches are kept
        stages.append("classify")
    return {stage: Capture(torch.cuda.graph_pool_handle(), torch.cuda.Stream()) for stage in stages}


def _channels_first(pixels: Tensor, height: int, width: int) -> Tensor:
    """uint8 (n, H·W·3) -> int32 (n, 3, H, W)."""
    return pixels.reshape(-1, height, width, 3).permute(0, 3, 1, 2).int().contiguous()
