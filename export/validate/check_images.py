"""Makes an engine's check images: phantoms whose focus mask no rounding can change.

They are phantoms always: an engine directory is copied and published, and holds no user's image.
"""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.speed import Speed
from medfocus.engine.artifact.writing import unpublished
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.checking.check_images import CheckImage
from medfocus.engine.checking.figures import mask_iou, mask_logit_error
from medfocus.engine.checking.self_check import limits, measure
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import collate, no_focus, prepare
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.images import phantoms
from medfocus.export.validate.speed import measured_speed
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.sam2.selection import candidate_scores, select_focus
from medfocus.settings import Selection

DRAWN, KEPT = 8, 4
SEED = 35_001_200  # of phantoms used for nothing else; the `tiny` models see them clearly
# Masks nearer than this are one, whichever of SAM2's candidates they are: bf16's limits.
SAME_IOU, SAME_LOGITS = 0.98, 0.05


def draw(
    segmenter: SegmenterGraph,
    classifier: ClassifierGraph,
    manifest: Manifest,
    progress: ProgressReporter,
) -> list[CheckImage]:
    """Phantoms with the answers of the float32 graphs, those with the clearest focus mask first."""
    answered = []
    with progress("answers for check images", DRAWN) as advance:
        for image in phantoms(DRAWN, SEED):
            answered.append(_answer(segmenter, classifier, manifest, image))
            advance(1)
    return [check for check, _ in sorted(answered, key=lambda each: -each[1])]


def confirmed(
    staging: Path, manifest: Manifest, drawn: Sequence[CheckImage], progress: ProgressReporter
) -> tuple[list[CheckImage], dict[str, Speed]]:
    """Run check images through every backend, in the buffers that an engine will use.

    Returns:
        The first check images that every backend answers within its limits, here where it passed:
        a mask that changes between near-tied candidates passes the gate's means over images, and
        would have this machine refuse its own engine. And how fast each backend is, if there are
        several.
    """
    kept, speeds = list(drawn), dict[str, Speed]()
    several = len(manifest.backends) > 1
    for name, precision in manifest.backends.items():
        reference = (name, precision) == ("torch", "fp32")
        if reference and not several:
            continue
        with progress(f"check images in {name}"):
            backend = load_backend(unpublished(staging, manifest), name, "auto")
            with closing(backend):
                if not reference:
                    kept = _passing(backend, manifest, kept)
                image = SourceImage(drawn[0].pixels, "check image")
                if several and (speed := measured_speed(backend, manifest, image)):
                    speeds[name] = speed
    if not kept:
        progress.say("no phantom's answer is clear enough: the engine has no check images")
    return kept[:KEPT], speeds


def _passing(backend: Backend, manifest: Manifest, kept: Sequence[CheckImage]) -> list[CheckImage]:
    """The first of the check images that a backend answers within its limits."""
    limit = limits(manifest, backend.name)
    with closing(backend.buffer_pool(manifest, 1)) as pool:
        passing = (
            check for check in kept if not limit.missed(measure(backend, pool, manifest, check))
        )
        return list(islice(passing, KEPT))


@torch.inference_mode()
def _answer(
    segmenter: SegmenterGraph, classifier: ClassifierGraph, manifest: Manifest, image: SourceImage
) -> tuple[CheckImage, float]:
    """A check image, and how clear its focus mask is."""
    preprocessing, clear = manifest.preprocessing, 0.0
    prepared = prepare(image, preprocessing, manifest.focus, manifest.prompts)
    batch = collate([prepared], preprocessing)
    if manifest.focus.mode == "none":
        logits, score = map(torch.from_numpy, no_focus(1, preprocessing))
    else:
        arrays = (batch.segmenter, batch.points, batch.labels)
        candidates, predicted_iou = segmenter.segmenter(*map(torch.from_numpy, arrays))
        logits, score = select_focus(candidates, predicted_iou, segmenter.selection)
        clear = lead(candidates, predicted_iou, segmenter.selection)
    pooling = map(torch.from_numpy, (batch.rows, batch.cols))
    found = classifier(torch.from_numpy(batch.classifier), logits, *pooling)
    outputs = (logits, score, found.embedding, found.probabilities, found.patch_focus)
    answer = (output[0].numpy() for output in (*outputs, found.focused))
    return CheckImage(image.pixels, *answer), clear


def lead(mask_logits: Tensor, predicted_iou: Tensor, selection: Selection) -> float:
    """How far the best candidate's score is above that of the best one with another mask.

    Args:
        mask_logits: (1, P, K, h, w), SAM2's candidates for one image.
        predicted_iou: (1, P, K).
        selection: which of them may be the focus.

    Returns:
        At most its distance from `min_score`; 0 where no candidate passes.
    """
    scores = candidate_scores(mask_logits, predicted_iou, selection)[0].numpy()  # (P·K,)
    masks = mask_logits.flatten(1, 2)[0].numpy()  # (P·K, h, w)
    best = scores.argmax()
    if scores[best] == 0:
        return 0.0
    chosen = np.broadcast_to(masks[best], masks.shape)
    same = (mask_iou(masks, chosen) >= SAME_IOU) & (mask_logit_error(masks, chosen) <= SAME_LOGITS)
    return float(scores[best] - max(scores[~same].max(initial=0.0), selection.min_score))
