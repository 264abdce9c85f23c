"""How far a backend's outputs are from the float32 PyTorch model's, and the limits for that."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from medfocus.engine.artifact.precision import ComputePrecision
from medfocus.settings import Device, require


@dataclass(frozen=True)
class Parity:
    """Differences measured over distinct images, in batches of every bucket.

    For the embedding, the probabilities and the patch focus both classifiers are given the
    reference's focus masks, so that they measure the classifier only; the labels are end to end,
    each side with its own masks.

    Attributes:
        images: how many were compared.
        embedding_cosine: lowest cosine similarity of any image.
        top1_agreement: fraction of images with the same label.
        probability_difference: largest of any class of any image.
        focused_agreement: fraction of images that are focused in both or in neither.
        patch_focus_difference: largest of any patch of any image.
        mask_iou: mean IoU of the focus masks at logits > 0; of two empty masks it is 1.
        mask_iou_alone: IoU of the same runtime's masks for an image in a batch and in a batch of
            one; lowest of the images whose mask differs from the reference's. A mask that differs
            because another candidate won is the same in both; one that its neighbours in the batch
            changed is not.
        mask_logit_error: largest difference of the focus logits relative to the largest logit, of
            the median image: where another candidate was selected the difference means nothing.
        score_error: difference of the focus score, of the median image.
        device: where it was measured, `cpu` or `cuda`.
    """

    images: int
    embedding_cosine: float
    top1_agreement: float
    probability_difference: float
    focused_agreement: float
    patch_focus_difference: float
    mask_iou: float
    mask_iou_alone: float
    mask_logit_error: float
    score_error: float
    device: Device


@dataclass(frozen=True)
class Thresholds:
    """Limits on `Parity`: lower limits of those in `AT_LEAST`, upper limits of the others."""

    embedding_cosine: float
    top1_agreement: float
    probability_difference: float
    focused_agreement: float
    patch_focus_difference: float
    mask_iou: float
    mask_iou_alone: float
    mask_logit_error: float
    score_error: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            require(
                math.isfinite(value) and value >= 0,
                field.name,
                "is not a finite number of at least 0",
            )

    def missed(self, figures: Mapping[str, float]) -> tuple[str, ...]:
        """The figures outside their limits, each as `name value (limit)`.

        Args:
            figures: by the names of `Parity`, all of them or some.
        """
        return tuple(
            f"{field.name} {figures[field.name]:.6g} ({self._limit(field.name)})"
            for field in fields(self)
            if field.name in figures and not self._met(field.name, figures[field.name])
        )

    def _met(self, name: str, value: float) -> bool:
        limit = getattr(self, name)
        # Comparisons with NaN are False, so NaN does not pass.
        return bool(value >= limit if name in AT_LEAST else value <= limit)

    def _limit(self, name: str) -> str:
        return f"at {'least' if name in AT_LEAST else 'most'} {getattr(self, name):g}"


AT_LEAST = (
    "embedding_cosine",
    "top1_agreement",
    "focused_agreement",
    "mask_iou",
    "mask_iou_alone",
)
SEGMENTER_FIGURES = ("mask_iou", "mask_iou_alone", "mask_logit_error", "score_error")

THRESHOLDS: dict[ComputePrecision, Thresholds] = {
    "fp32": Thresholds(0.99999, 1.0, 1e-3, 1.0, 1e-3, 0.999, 0.99, 1e-3, 1e-3),
    "fp16": Thresholds(0.999, 0.98, 0.05, 0.98, 0.02, 0.98, 0.9, 0.05, 0.02),
    "bf16": Thresholds(0.999, 0.98, 0.05, 0.98, 0.02, 0.98, 0.9, 0.05, 0.02),
    "int8": Thresholds(0.98, 0.98, 0.25, 0.98, 0.05, 0.95, 0.9, 0.3, 0.05),
}
