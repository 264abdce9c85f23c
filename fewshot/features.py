"""Frozen features: what CLIP, steered by the segmentation, makes of labelled images."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from medfocus.engine.images import read_images
from medfocus.engine.prepare import Prepared, collate, prepare
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.settings import Preprocessing, Prompts

BATCH = 16


@torch.no_grad()
def embed(
    labelled: Sequence[tuple[Path, int]],
    segmenter: SegmenterGraph,
    classifier: ClassifierGraph,
    preprocessing: Preprocessing,
    prompts: Prompts,
) -> tuple[Tensor, Tensor]:
    """Embeddings of images as the engine would compute them, prompts and focus included.

    Args:
        labelled: files and their class index; every frame of a multi-frame file counts.
        segmenter, classifier: the engine's two graphs; the classifier's head is not used.
        preprocessing, prompts: the engine's.

    Returns:
        (N, E) float32 of length 1, and (N,) int64 class indices.

    Raises:
        ImageError: a file that cannot be read, named.
    """
    items: list[Prepared] = []
    labels: list[int] = []
    features: list[Tensor] = []
    for path, label in track(labelled, "embedding images"):
        for image in read_images(path):
            items.append(prepare(image, preprocessing, classifier.focus, prompts))
            labels.append(label)
            if len(items) == BATCH:
                features.append(_run(items, segmenter, classifier, preprocessing))
                items = []
    if items:
        features.append(_run(items, segmenter, classifier, preprocessing))
    return torch.cat(features), torch.tensor(labels)


def _run(
    items: list[Prepared],
    segmenter: SegmenterGraph,
    classifier: ClassifierGraph,
    preprocessing: Preprocessing,
) -> Tensor:
    batch = collate(items, preprocessing)
    image, points, labels = map(torch.from_numpy, (batch.segmenter, batch.points, batch.labels))
    focus_logits = segmenter(image, points, labels).focus_logits
    image, rows, cols = map(torch.from_numpy, (batch.classifier, batch.rows, batch.cols))
    return F.normalize(classifier(image, focus_logits, rows, cols).embedding, dim=-1)
