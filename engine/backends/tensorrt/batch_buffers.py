"""A batch's buffers for TensorRT: pinned on the host, and one copy on the GPU for both plans.

A row is uploaded as soon as it is preprocessed, on a stream of its own, while the batches before
are computed. The focus masks stay on the GPU between the plans.

Imported only once `require_tensorrt` has passed.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod

import numpy as np

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.tensorrt.memory import HostDeviceBuffer
from medfocus.engine.backends.tensorrt.plan_runner import PlanRunner, Shape, Shapes
from medfocus.engine.preprocess.batch import (
    MASK_STRIDE,
    NO_REGION,
    Batch,
    pooled_cells,
    prepare,
)
from medfocus.engine.runtime import cuda
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest


class PlanBatchBuffers:
    """See `BatchBuffers`.

    Args:
        segmenter: its plan.
        classifier: its plan.
        manifest: the engine's.
        count: number of rows, the most images of a batch.
        gpu: the plans', and the calling thread's current one.
        owner: frees all memory when it is closed.
    """

    def __init__(
        self,
        segmenter: PlanRunner,
        classifier: PlanRunner,
        manifest: Manifest,
        count: int,
        gpu: cuda.Gpu,
        owner: ExitStack,
    ) -> None:
        self._manifest, self._gpu = manifest, gpu
        self._copies = cuda.Stream()
        owner.callback(self._copies.close)
        pre = manifest.preprocessing
        first, second, mask = (
            pre.segmenter.size,
            pre.classifier.size,
            pre.segmenter.size // MASK_STRIDE,
        )
        cells, prompts = pooled_cells(pre, manifest.focus), np.shape(manifest.prompts.labels)
        # One flat row of the most points: prompts of every shape begin at the same address.
        most = prod(segmenter.largest("labels")[1:])

        def buffer(dtype: type[np.generic], *shape: int) -> HostDeviceBuffer:
            return HostDeviceBuffer(owner, dtype, count, *shape)

        self._image = buffer(np.float32, 3, first, first)
        self._points, self._labels = buffer(np.float32, 2 * most), buffer(np.int32, most)
        self._seen = buffer(np.float32, 3, second, second)
        self._rows, self._cols = (buffer(np.float32, cells, mask) for _ in range(2))
        self._first = _PlanTensors(
            segmenter,
            {"image": self._image, "points": self._points, "labels": self._labels},
            {"image": (3, first, first), **_prompt_shapes(prompts)},
            count,
            owner,
        )
        logits = self._first.tensors["focus_logits"]
        self._second = _PlanTensors(
            classifier,
            {"image": self._seen, "focus_logits": logits, "rows": self._rows, "cols": self._cols},
            {
                "image": (3, second, second),
                "focus_logits": (mask, mask),
                **dict.fromkeys(("rows", "cols"), (cells, mask)),
            },
            count,
            owner,
        )
        logits.host[:] = NO_REGION  # where the engine does not segment, they remain as they are
        for unset in (logits, self._first.tensors["score"]):
            unset.up(self._copies, slice(count))
        self._copies.wait()

    @property
    def nbytes(self) -> int:
        """See `BatchBuffers`; those on the GPU."""
        both = {*self._first.tensors.values(), *self._second.tensors.values()}
        return sum(buffer.host.nbytes for buffer in both)

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """See `BatchBuffers`.

        Raises:
            InputError: prompts that the plan was not built for (`input.shape_not_built`).
        """
        count, (prompts, points) = len(requests), requests[0].prompts_shape
        self._shapes = {**self._first.usual, **_prompt_shapes((prompts, points))}
        self._first.plan.require(_batched(self._shapes, count))
        total = count * prompts * points
        flat_points, flat_labels = self._points.host.reshape(-1), self._labels.host.reshape(-1)
        self._batch = Batch(
            self._image.host[:count],
            self._seen.host[:count],
            self._rows.host[:count],
            self._cols.host[:count],
            flat_points[: 2 * total].reshape(count, prompts, points, 2),
            flat_labels[:total].reshape(count, prompts, points),
        )
        self._requests = requests

    def prepare(self, row: int) -> None:
        """See `BatchBuffers`."""
        request, pre = self._requests[row], self._manifest.preprocessing
        item = prepare(request.image, pre, self._manifest.focus, request.prompts)
        self._batch.write(row, item, pre)
        with self._gpu.current():
            for buffer in (self._image, self._seen, self._rows, self._cols):
                buffer.up(self._copies, slice(row, row + 1))

    def segment(self) -> None:
        """See `BatchBuffers`."""
        count = len(self._requests)
        with self._gpu.current():
            for buffer in (self._points, self._labels):
                buffer.up(self._copies, slice(count))
            stream = self._first.plan.stream
            stream.follow(self._copies)
            if self._manifest.focus.mode != "none":
                self._first.run(count, self._shapes)
            stream.wait()

    def classify(self) -> None:
        """See `BatchBuffers`."""
        count, kept = len(self._requests), [request.kept for request in self._requests]
        first, second = self._first.tensors, self._second.tensors
        wanted = [second["probabilities"], second["focused"], first["score"]]
        if any(one.masks for one in kept):
            wanted += [first["focus_logits"], second["patch_focus"]]
        if any(one.embedding for one in kept):
            wanted.append(second["embedding"])
        with self._gpu.current():
            # All that it reads is on the GPU: `segment` has waited for it.
            self._second.run(count, self._second.usual)
            for buffer in wanted:
                buffer.down(self._second.plan.stream, count)
            self._second.plan.stream.wait()

    def outputs(self, row: int) -> GraphOutputs:
        """See `BatchBuffers`."""
        kept = self._requests[row].kept
        found = {
            name: buffer.host[row]
            for name, buffer in (self._first.tensors | self._second.tensors).items()
        }
        return GraphOutputs(
            found["probabilities"].copy(),
            bool(found["focused"]),
            float(found["score"]),
            found["focus_logits"].copy() if kept.masks else None,
            found["patch_focus"].copy() if kept.masks else None,
            found["embedding"].copy() if kept.embedding else None,
        )

    def end(self) -> None:
        """See `BatchBuffers`."""
        self._requests = ()

    def capture(self, sizes: Sequence[int]) -> None:
        """Capture a CUDA graph per plan and batch size, for the zero-shot prompts."""
        if self._manifest.focus.mode != "none":
            self._first.capture(sizes)
        self._second.capture(sizes)


class _PlanTensors:
    """A plan with its tensors in these buffers.

    Args:
        plan: to run.
        inputs: its inputs' buffers.
        usual: the inputs' shapes, without the batch, for which CUDA graphs may be captured.
        count: number of rows.
        owner: of the outputs' memory.

    Attributes:
        tensors: all buffers, by the names of the plan's tensors.
    """

    def __init__(
        self,
        plan: PlanRunner,
        inputs: Mapping[str, HostDeviceBuffer],
        usual: Shapes,
        count: int,
        owner: ExitStack,
    ) -> None:
        self.plan, self.usual = plan, usual
        outputs = plan.output_shapes(_batched(usual, count))
        made = {
            name: HostDeviceBuffer(owner, plan.dtypes[name], *shape)
            for name, shape in outputs.items()
        }
        self.tensors = {**inputs, **made}
        self._addresses = {name: buffer.address for name, buffer in self.tensors.items()}
        self._graphs: dict[int, cuda.Graph] = {}

    def run(self, count: int, shapes: Shapes) -> None:
        """Submit the plan for `count` rows: as a CUDA graph if there is one, with room for them."""
        size = min((size for size in self._graphs if size >= count), default=None)
        if size is None or shapes != self.usual:
            self.plan.enqueue(_batched(shapes, count), self._addresses)
        else:
            self._graphs[size].launch(self.plan.stream)

    def capture(self, sizes: Sequence[int]) -> None:
        """Capture a CUDA graph per batch size, up to the first that cannot be captured."""
        for size in sizes:
            graph = self.plan.captured(_batched(self.usual, size), self._addresses)
            if graph is None:
                break
            self._graphs[size] = graph


def _batched(shapes: Shapes, count: int) -> dict[str, Shape]:
    return {name: (count, *shape) for name, shape in shapes.items()}


def _prompt_shapes(prompts: Shape) -> dict[str, Shape]:
    return {"points": (*prompts, 2), "labels": prompts}
