"""The buffers that one batch at a time goes through, and what is done to it there."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.preprocess.batch import Batch, no_focus, pooled_cells, prepare
from medfocus.engine.runtime.graphs import Graphs
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest


class BatchBuffers(Protocol):
    """A batch's buffers. The pipeline calls its methods in this order, one batch after another.

    `prepare` is called from several threads at once, for different rows.
    """

    @property
    def nbytes(self) -> int:
        """Of all its buffers."""

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """Take a batch, of no more images than there is room for, with prompts of one shape."""

    def prepare(self, row: int) -> None:
        """Prepare an image into its row.

        Raises:
            MedfocusError: it cannot be prepared; the row's answer then means nothing.
        """

    def segment(self) -> None:
        """From images and prompts to focus masks."""

    def classify(self) -> None:
        """From images and focus masks to answers."""

    def outputs(self, row: int) -> GraphOutputs:
        """A row's answer."""

    def end(self) -> None:
        """Forget the batch; whether it was answered or has failed."""


class HostBatchBuffers:
    """Buffers in the host's memory, for backends that take arrays and give arrays.

    Args:
        graphs: what runs them.
        manifest: the engine's.
        count: images that there is room for.
    """

    def __init__(self, graphs: Graphs, manifest: Manifest, count: int) -> None:
        self._graphs, self._manifest = graphs, manifest
        cells = pooled_cells(manifest.preprocessing, manifest.focus)
        # The zero-shot prompts' shape; where a batch has another, it brings its own arrays.
        prompts = np.shape(manifest.prompts.labels)
        self._buffers = Batch.allocate(count, manifest.preprocessing, cells, prompts)

    @property
    def nbytes(self) -> int:
        """See `BatchBuffers`."""
        return sum(array.nbytes for array in vars(self._buffers).values())

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """See `BatchBuffers`."""
        count, shape, buffers = len(requests), requests[0].prompts_shape, self._buffers
        points, labels = buffers.points[:count], buffers.labels[:count]
        if shape != labels.shape[1:]:
            points, labels = (
                np.zeros((count, *shape, 2), np.float32),
                np.zeros((count, *shape), np.int32),
            )
        self._batch = Batch(
            buffers.segmenter[:count],
            buffers.classifier[:count],
            buffers.rows[:count],
            buffers.cols[:count],
            points,
            labels,
        )
        self._requests = requests

    def prepare(self, row: int) -> None:
        """See `BatchBuffers`."""
        request, preprocessing = self._requests[row], self._manifest.preprocessing
        item = prepare(request.image, preprocessing, self._manifest.focus, request.prompts)
        self._batch.write(row, item, preprocessing)

    def segment(self) -> None:
        """See `BatchBuffers`."""
        batch = self._batch
        if self._manifest.focus.mode == "none":
            self._logits, self._score = no_focus(len(self._requests), self._manifest.preprocessing)
        else:
            found = self._graphs.segment(batch.segmenter, batch.points, batch.labels)
            self._logits, self._score = found

    def classify(self) -> None:
        """See `BatchBuffers`."""
        batch = self._batch
        found = self._graphs.classify(batch.classifier, self._logits, batch.rows, batch.cols)
        _, self._probabilities, self._patch_focus, self._focused = found

    def outputs(self, row: int) -> GraphOutputs:
        """See `BatchBuffers`."""
        # Copies, so that keeping one answer does not keep its whole batch.
        return GraphOutputs(
            self._probabilities[row].copy(),
            bool(self._focused[row]),
            float(self._score[row]),
            self._logits[row].copy(),
            self._patch_focus[row].copy(),
        )

    def end(self) -> None:
        """See `BatchBuffers`."""
        self._requests = ()
