"""The buffers that one batch at a time goes through, and what is done to it there."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from medfocus.engine.backends import Array, Backend
from medfocus.engine.images import SourceImage
from medfocus.engine.manifest import Manifest
from medfocus.engine.prepare import Batch, no_focus, pooled_cells, prepare
from medfocus.settings import Prompts


@dataclass(frozen=True, eq=False)
class Answer:
    """What the graphs say of one image; memory of its own.

    Attributes:
        probabilities: float32 (C,).
        focused: whether a region steered the classifier.
        score, focus_logits, patch_focus: of the focus mask: a number, float32 (h, w) and (g, g).
    """

    probabilities: Array
    focused: bool
    score: float
    focus_logits: Array
    patch_focus: Array


@dataclass(eq=False)
class Job:
    """An image on its way to an answer.

    Attributes:
        image: what was read.
        prompts: the manifest's, or the caller's own for this image.
        answer: where the answer or the error goes.
        submitted: when it came, on the clock of `time.perf_counter`.
        begun: whether it has been in a batch; it then cannot be cancelled.
    """

    image: SourceImage
    prompts: Prompts
    answer: "Future[Answer]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    begun: bool = False

    @property
    def prompts_shape(self) -> tuple[int, int]:
        """P prompts of n points; images of one batch share it.

        Prompts are not padded: a padding point takes part in SAM2's attention, and an image's
        answer must not depend on its neighbours' prompts.
        """
        return len(self.prompts.labels), len(self.prompts.labels[0])


class Slot(Protocol):
    """A batch's buffers. The pipeline calls its methods in this order, one batch after another.

    `fill` is called from several threads at once, for different rows.
    """

    @property
    def nbytes(self) -> int:
        """Of all its buffers."""

    def begin(self, jobs: Sequence[Job]) -> None:
        """Take a batch, of no more images than there is room for, with prompts of one shape."""

    def fill(self, row: int) -> None:
        """Prepare an image into its row.

        Raises:
            MedfocusError: it cannot be prepared; the row's answer then means nothing.
        """

    def segment(self) -> None:
        """From images and prompts to focus masks."""

    def classify(self) -> None:
        """From images and focus masks to answers."""

    def answer(self, row: int) -> Answer:
        """A row's answer."""

    def end(self) -> None:
        """Forget the batch; whether it was answered or has failed."""


class HostSlot:
    """Buffers in the host's memory, for backends that take arrays and give arrays.

    Args:
        backend: what runs the graphs.
        manifest: the engine's.
        count: images that there is room for.
    """

    def __init__(self, backend: Backend, manifest: Manifest, count: int) -> None:
        self._backend, self._manifest = backend, manifest
        cells = pooled_cells(manifest.preprocessing, manifest.focus)
        # The zero-shot prompts' shape; where a batch has another, it brings its own arrays.
        prompts = np.shape(manifest.prompts.labels)
        self._buffers = Batch.allocate(count, manifest.preprocessing, cells, prompts)

    @property
    def nbytes(self) -> int:
        """See `Slot`."""
        return sum(array.nbytes for array in vars(self._buffers).values())

    def begin(self, jobs: Sequence[Job]) -> None:
        """See `Slot`."""
        count, shape, buffers = len(jobs), jobs[0].prompts_shape, self._buffers
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
        self._jobs = jobs

    def fill(self, row: int) -> None:
        """See `Slot`."""
        job, preprocessing = self._jobs[row], self._manifest.preprocessing
        item = prepare(job.image, preprocessing, self._manifest.focus, job.prompts)
        self._batch.write(row, item, preprocessing)

    def segment(self) -> None:
        """See `Slot`."""
        batch = self._batch
        if self._manifest.focus.mode == "none":
            self._logits, self._score = no_focus(len(self._jobs), self._manifest.preprocessing)
        else:
            found = self._backend.segment(batch.segmenter, batch.points, batch.labels)
            self._logits, self._score = found

    def classify(self) -> None:
        """See `Slot`."""
        batch = self._batch
        found = self._backend.classify(batch.classifier, self._logits, batch.rows, batch.cols)
        _, self._probabilities, self._patch_focus, self._focused = found

    def answer(self, row: int) -> Answer:
        """See `Slot`."""
        # Copies, so that keeping one answer does not keep its whole batch.
        return Answer(
            self._probabilities[row].copy(),
            bool(self._focused[row]),
            float(self._score[row]),
            self._logits[row].copy(),
            self._patch_focus[row].copy(),
        )

    def end(self) -> None:
        """See `Slot`."""
        self._jobs = ()
