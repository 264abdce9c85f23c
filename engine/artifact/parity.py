"""How near an engine's answers are to the float32 PyTorch model's, and how near they must be."""

import math
from dataclasses import dataclass, fields

from medfocus.settings import Device, require


@dataclass(frozen=True)
class Parity:
    """What was measured, over images that differ, at every bucket.

    The embedding, the probabilities and the patch focus are compared with both classifiers given
    the reference's focus masks, so that they tell of the classifier alone; the labels are those
    of the whole way, each with its own masks.

    Attributes:
        images: how many were compared.
        embedding_cosine: of the worst image.
        top1_agreement: share of images that got the same label.
        probability_difference: the largest of any class.
        focused_agreement: share of images that are focused in both or in neither.
        mask_iou: of the focus masks, cut at 0; mean. Two empty masks agree: 1.
        mask_iou_alone: of the masks that an image gets in a batch and alone, from the same runtime;
            the worst of the images whose mask is not the reference's. A mask that another candidate
            has won is the same in both; one that its neighbours in the batch spoiled is not.
        mask_logit_error: largest difference of the focus logits over the largest logit, of the
            median image: where another candidate is chosen, the worst image tells nothing.
        score_error: difference of the focus score, of the median image.
        patch_focus_difference: the largest of any patch.
        device: where it was checked, `cpu` or `cuda`.
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
    """What `Parity` must reach to pass: cosine, agreement and IoU at least, the others at most."""

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
            require(math.isfinite(value) and value >= 0, field.name, "is not a number from 0")

    def missed(self, parity: Parity) -> tuple[str, ...]:
        """The figures that do not reach what they must, as `name value (limit)`."""
        return tuple(
            f"{field.name} {getattr(parity, field.name):.6g} ({self._limit(field.name)})"
            for field in fields(self)
            if not self._reached(field.name, parity)
        )

    def _reached(self, name: str, parity: Parity) -> bool:
        value, limit = getattr(parity, name), getattr(self, name)
        # Written so that NaN does not pass.
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
