"""Checks that SAM2 on smaller images finds the same regions as at its native size."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.parity import Parity
from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import prepare
from medfocus.errors import ParityError
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate.comparison import SEGMENTER_SIZE, Images, Outputs, Reference, compare
from medfocus.export.validate.gate import reference_outputs
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.settings import Preprocessing


def check_segmenter_size(
    native: SegmenterGraph,
    classifier: ClassifierGraph,
    found: Outputs,
    images: Sequence[SourceImage],
    manifest: Manifest,
    progress: ProgressReporter,
) -> Parity:
    """Compare outputs with those of the same SAM2 at its architecture's native image size.

    Each classifier uses its own segmenter's masks, unlike in the gate of the runtimes.

    Args:
        native: the segmenter at its native size.
        classifier: in float32; it takes masks of either size.
        found: the float32 outputs at the engine's size.
        images: the images of `found`, in its order.
        manifest: the engine's, for prompts and preprocessing.
        progress: reports the stage.

    Raises:
        ParityError: different regions are found (`parity.segmenter_size`).
    """
    used = manifest.preprocessing
    size = native.segmenter.image_size
    preprocessing = Preprocessing(replace(used.segmenter, size=size), used.classifier)
    prepared = [prepare(image, preprocessing, manifest.focus, manifest.prompts) for image in images]
    expected = reference_outputs(
        Reference(native, classifier),
        Images(prepared, preprocessing, steered=True),
        progress,
        f"SAM2 at {size} pixels",
    )
    rows = [list(range(len(images)))]
    parity = compare(_resized(found, expected), expected, rows, mask_iou_alone=1.0, device="cpu")
    if missed := SEGMENTER_SIZE.missed(vars(parity)):
        raise ParityError(
            f"segmenter size {used.segmenter.size}",
            f"finds other regions than SAM2's native {size}: " + ", ".join(missed),
            "export with a larger --segmenter-size",
            code="parity.segmenter_size",
        )
    return parity


def _resized(found: Outputs, expected: Outputs) -> Outputs:
    """`found` with its masks resized to the expected ones: both cover the whole image."""
    masks = torch.from_numpy(found.focus_logits)[:, None]
    side = expected.focus_logits.shape[-2:]
    resized = F.interpolate(masks, side, mode="bilinear", align_corners=False)[:, 0]
    return replace(found, focus_logits=resized.numpy())
