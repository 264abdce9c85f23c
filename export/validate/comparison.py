"""Compares the outputs of a backend with those of the float32 PyTorch model, on images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfocus.engine.artifact.parity import Parity, Thresholds
from medfocus.engine.checking.figures import (
    cosine,
    largest_difference,
    mask_iou,
    mask_logit_error,
)
from medfocus.engine.preprocess.batch import Batch, Prepared, collate, no_focus
from medfocus.engine.runtime.graphs import Array, Graphs
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.settings import Device, Preprocessing

# A smaller segmenter is another model: it may find other edges, but must find the same regions.
SEGMENTER_SIZE = Thresholds(0.9, 0.95, 0.5, 0.95, 1.0, 0.85, 0.0, 1.0, 0.2)
DIFFERENT = 0.9  # masks with a lower IoU with the reference's are segmented again, by themselves


class Reference:
    """The PyTorch graphs in float32, on the CPU."""

    def __init__(self, segmenter: SegmenterGraph, classifier: ClassifierGraph) -> None:
        self._segmenter, self._classifier = segmenter, classifier

    @torch.inference_mode()
    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        focus_logits, score = self._segmenter(*map(torch.from_numpy, (image, points, labels)))
        return focus_logits.numpy(), score.numpy()

    @torch.inference_mode()
    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        output = self._classifier(*map(torch.from_numpy, (image, focus_logits, rows, cols)))
        embedding, probabilities, patch_focus, focused = (tensor.numpy() for tensor in output)
        return embedding, probabilities, patch_focus, focused


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of the two graphs for N images.

    Attributes:
        focus_logits: (N, h, w) and score: (N,), the segmenter's.
        labels: (N,) class index, with the segmenter's own masks.
        embedding: (N, E), probabilities: (N, C), patch_focus: (N, g, g), focused: (N,): with the
            masks of the reference, where there is one.
    """

    focus_logits: Array
    score: Array
    labels: NDArray[np.int64]
    embedding: Array
    probabilities: Array
    patch_focus: Array
    focused: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Images:
    """The images on which outputs are compared, as the engine prepares them.

    Attributes:
        prepared: N images whose prompts have the same shape.
        preprocessing: the engine's.
        steered: whether the engine segments at all.
    """

    prepared: Sequence[Prepared]
    preprocessing: Preprocessing
    steered: bool

    def batch(self, rows: Sequence[int]) -> Batch:
        """A batch of some of the images, as the graphs' inputs."""
        return collate([self.prepared[row] for row in rows], self.preprocessing)


def batches(count: int, buckets: Sequence[int]) -> Iterator[list[int]]:
    """Distribute `count` images over full batches: an equal share for each bucket, no repeats.

    >>> [len(rows) for rows in batches(10, (1, 4))]
    [4, 4, 1, 1, 1, 1, 1]
    """
    place = 0
    for bucket in sorted(buckets, reverse=True):
        if bucket > count:
            raise ValueError(f"{count} images do not fill a batch of {bucket}")
        for _ in range(-(-count // (len(buckets) * bucket))):
            yield [(place + offset) % count for offset in range(bucket)]
            place = (place + bucket) % count


def run_graphs(
    graphs: Graphs,
    images: Images,
    batch_rows: Sequence[list[int]],
    reference: Outputs | None = None,
    advance: Callable[[int], Any] = lambda _: None,
) -> Outputs:
    """Run batches of images, and classify them again with the reference's masks.

    Args:
        graphs: the two graphs of a backend.
        images: the images.
        batch_rows: the rows of each batch.
        reference: the reference's outputs for all images, in their order.
        advance: called with the number of images of each finished batch.

    Returns:
        The outputs in the order of the batches.
    """
    outputs = []
    for rows in batch_rows:
        batch = images.batch(rows)
        if images.steered:
            logits, score = graphs.segment(batch.segmenter, batch.points, batch.labels)
        else:
            logits, score = no_focus(len(rows), images.preprocessing)
        found = graphs.classify(batch.classifier, logits, batch.rows, batch.cols)
        labels = found[1].argmax(-1)
        if reference is not None:
            given = reference.focus_logits[rows]
            found = graphs.classify(batch.classifier, given, batch.rows, batch.cols)
        outputs.append((logits, score, labels, *found))
        advance(len(rows))
    return Outputs(*(np.concatenate(arrays) for arrays in zip(*outputs, strict=True)))


def mask_iou_alone(
    graphs: Graphs,
    images: Images,
    found: Outputs,
    reference: Outputs,
    batch_rows: Sequence[list[int]],
) -> float:
    """The worst IoU between an image's mask in its batch and in a batch of one.

    Only images whose mask differs from the reference's are segmented again.
    """
    rows = [row for batch in batch_rows for row in batch]
    different = np.flatnonzero(
        mask_iou(found.focus_logits, reference.focus_logits[rows]) < DIFFERENT
    )
    worst = 1.0
    for place in different:
        batch = images.batch([rows[place]])
        single, _ = graphs.segment(batch.segmenter, batch.points, batch.labels)
        worst = min(worst, float(mask_iou(found.focus_logits[place : place + 1], single)[0]))
    return worst


def compare(
    found: Outputs,
    reference: Outputs,
    batch_rows: Sequence[list[int]],
    mask_iou_alone: float,
    device: Device,
) -> Parity:
    """Compare outputs with the reference's.

    Args:
        found: the outputs, in the order of `batch_rows`.
        reference: the reference's outputs for all images, in their order.
        batch_rows: the rows of each batch.
        mask_iou_alone: from the function of that name; 1 where nothing ran in batches.
        device: where `found` was computed.
    """
    rows = [row for batch in batch_rows for row in batch]
    return Parity(
        images=len(set(rows)),
        embedding_cosine=float(cosine(found.embedding, reference.embedding[rows]).min()),
        top1_agreement=float((found.labels == reference.labels[rows]).mean()),
        probability_difference=largest_difference(
            found.probabilities, reference.probabilities[rows]
        ),
        mask_iou=float(mask_iou(found.focus_logits, reference.focus_logits[rows]).mean()),
        focused_agreement=float((found.focused == reference.focused[rows]).mean()),
        mask_iou_alone=mask_iou_alone,
        score_error=float(np.median(np.abs(found.score - reference.score[rows]))),
        mask_logit_error=float(
            np.median(mask_logit_error(found.focus_logits, reference.focus_logits[rows]))
        ),
        patch_focus_difference=largest_difference(found.patch_focus, reference.patch_focus[rows]),
        device=device,
    )
