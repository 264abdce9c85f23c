"""The buffers of one batch, and the steps that a batch goes through in them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.preprocess.batch import Batch, no_focus, pooled_cells, prepare
from medfocus.engine.runtime.graphs import Graphs
from medfocus.engine.runtime.image_request import GraphOutputs, ImageRequest


class BatchBuffers(Protocol):
    """Buffers for one batch at a time.

    For each batch the pipeline calls `begin`, `prepare` once per row (from several threads at
    once), `segment`, `classify`, `outputs` once per row, and `end`.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""

    def begin(self, requests: Sequence[ImageRequest]) -> None:
        """Start a batch: at most as many requests as there are rows, with prompts of one shape."""

    def prepare(self, row: int) -> None:
        """Preprocess an image into its row.

        Raises:
            MedfocusError: the image cannot be preprocessed; the row's outputs are then undefined.
        """

    def segment(self) -> None:
        """Run the segmenter: images and prompts to focus masks."""

    def classify(self) -> None:
        """Run the classifier: images and focus masks to predictions."""

    def outputs(self, row: int) -> GraphOutputs:
        """The outputs of one row that its request wants kept, as copies."""

    def end(self) -> None:
        """End the batch, whether it succeeded or failed."""


class HostBatchBuffers:
    """Buffers in host memory, for backends that take and return arrays.

    Args:
        graphs: the backend.
        manifest: the engine's.
        count: number of rows, the most images of a batch.
    """

    def __init__(self, graphs: Graphs, manifest: Manifest, count: int) -> None:
        self._graphs, self._manifest = graphs, manifest
        cells = pooled_cells(manifest.preprocessing, manifest.focus)
        # Sized for the zero-shot prompts; a batch of another prompt shape allocates its own.
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
        self._embedding, self._probabilities, self._patch_focus, self._focused = found

    def outputs(self, row: int) -> GraphOutputs:
        """See `BatchBuffers`."""
        kept = self._requests[row].kept
        # Copies, so that keeping one prediction does not keep its whole batch.
        return GraphOutputs(
            self._probabilities[row].copy(),
            bool(self._focused[row]),
            float(self._score[row]),
            self._logits[row].copy() if kept.masks else None,
            self._patch_focus[row].copy() if kept.masks else None,
            self._embedding[row].copy() if kept.embedding else None,
        )

    def end(self) -> None:
        """See `BatchBuffers`."""
        self._requests = ()
