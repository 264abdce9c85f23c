"""Whether a loaded backend gives a check image's answer, on the machine that it runs on."""

from collections.abc import Sequence

import numpy as np

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.parity import THRESHOLDS, Thresholds
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import device_name
from medfocus.engine.checking.check_images import CheckImage
from medfocus.engine.checking.figures import (
    cosine,
    largest_difference,
    mask_iou,
    mask_logit_error,
)
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.image_request import ImageRequest, Kept
from medfocus.engine.runtime.memory import is_out_of_memory
from medfocus.errors import MedfocusError, ParityError


def limits(manifest: Manifest, backend: str) -> Thresholds:
    """What one image's answer must meet: the limits that the backend met at the export.

    PyTorch in float32, which was the reference, has those of float32.
    """
    return manifest.thresholds.get(backend, THRESHOLDS["fp32"])


def measure(
    backend: Backend, pool: BufferPool, manifest: Manifest, check: CheckImage
) -> dict[str, float]:
    """Classify a check image as any other image, and compare the answer with the reference's.

    Where the parity gate takes a mean or a median over images, this is the one image's value, and
    all of it is end to end: the classifier is given the backend's own mask, not the reference's.
    The label is left to the probabilities: two that are nearly equal may change places.

    Returns:
        By the names of `Parity`.

    Raises:
        ParityError: the runtime fails on the image (`parity.missed_here`); out of memory is raised
            as it is.
    """
    image = SourceImage(check.pixels, "check image")
    try:
        request = ImageRequest(image, manifest.prompts, Kept(masks=True, embedding=True))
        (found,) = pool.run(pool.buffers[0], [request])
    except Exception as error:  # the runtimes' exceptions have no common base class
        if isinstance(error, MedfocusError) or is_out_of_memory(error):
            raise
        problem = f"fails on a check image of the engine ({type(error).__name__})"
        raise _refused(backend, manifest, problem) from None
    assert found.patch_focus is not None
    assert found.focus_logits is not None
    assert found.embedding is not None
    return {
        "embedding_cosine": float(cosine(found.embedding[None], check.embedding[None])[0]),
        "probability_difference": largest_difference(found.probabilities, check.probabilities),
        "focused_agreement": float(found.focused == bool(check.focused)),
        "patch_focus_difference": largest_difference(found.patch_focus, check.patch_focus),
        "mask_iou": float(mask_iou(found.focus_logits[None], check.focus_logits[None])[0]),
        "mask_logit_error": float(
            mask_logit_error(found.focus_logits[None], check.focus_logits[None])[0]
        ),
        "score_error": float(np.abs(found.score - check.score)),
    }


def require_answer(
    backend: Backend, pool: BufferPool, manifest: Manifest, check: CheckImage
) -> None:
    """Refuse a backend whose answer for a check image is too far from the reference's.

    Raises:
        ParityError: figures miss their limits, or see `measure` (`parity.missed_here`).
    """
    figures = measure(backend, pool, manifest, check)
    if missed := limits(manifest, backend.name).missed(figures):
        raise too_far_here(backend, manifest, missed)


def too_far_here(backend: Backend, manifest: Manifest, missed: Sequence[str]) -> ParityError:
    """The error of a backend that passed at the export and misses these limits here."""
    problem = "its answers are too far from the float32 model's on this machine: "
    return _refused(backend, manifest, problem + ", ".join(missed))


def _refused(backend: Backend, manifest: Manifest, problem: str) -> ParityError:
    place = device_name(backend.device, backend.ordinal)
    item = f"{backend.name} in {manifest.backends[backend.name]} on {place}"
    hint = "use another backend or device, or export the engine again on this machine"
    return ParityError(item, problem, hint, code="parity.missed_here")
