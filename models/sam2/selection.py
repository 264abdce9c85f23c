"""Selects one focus mask per image from SAM2's candidates."""

import torch
from torch import Tensor

from medfocus.models.sam2.segmenter import LOGIT_LIMIT
from medfocus.settings import Selection

UNION_FLOOR = 1e-7  # distance of a union's probabilities from 0 and 1: logits within ±16.1


def stability_score(mask_logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks at logits > +offset and > -offset: (..., h, w) -> (...).

    The first is inside the second, so the IoU is a ratio of areas (the score is defined in
    segment_anything/utils/amg.py). An empty mask scores 0.
    """
    inner = (mask_logits > offset).sum((-2, -1))
    outer = (mask_logits > -offset).sum((-2, -1))
    return inner / outer.clamp(min=1)


def candidate_scores(mask_logits: Tensor, predicted_iou: Tensor, selection: Selection) -> Tensor:
    """Scores (B, P·K) from (B, P, K, h, w) and (B, P, K); 0 for candidates that do not pass."""
    area = (mask_logits > 0).to(predicted_iou.dtype).mean((-2, -1))
    score = predicted_iou * stability_score(mask_logits, selection.stability_offset)
    passes = (
        (area >= selection.min_area) & (area <= selection.max_area) & (score >= selection.min_score)
    )
    return torch.where(passes, score, 0.0).flatten(1)


def select_focus(
    mask_logits: Tensor, predicted_iou: Tensor, selection: Selection
) -> tuple[Tensor, Tensor]:
    """Select one focus mask per image from P prompts × K candidates.

    `union` is the pixelwise maximum of the candidates' probabilities, each weighted with its
    score relative to the best one's, so that a single candidate does not change, up to ±16.1.

    Args:
        mask_logits: (B, P, K, h, w).
        predicted_iou: (B, P, K).
        selection: the thresholds and the policy.

    Returns:
        Focus logits (B, h, w) and score (B,). Where no candidate passes, or the union covers more
        than `max_area`, the score is 0 and every logit is -32: an empty mask, which means "no
        region found" to the classifier.
    """
    scores = candidate_scores(mask_logits, predicted_iou, selection)  # (B, P·K)
    candidates = mask_logits.flatten(1, 2)  # (B, P·K, h, w)
    best_score, best = scores.max(1)
    if selection.policy == "best":
        index = best[:, None, None, None].expand(-1, 1, *candidates.shape[-2:])
        focus = candidates.gather(1, index).squeeze(1)
    else:
        weights = scores / best_score.clamp(min=torch.finfo(scores.dtype).tiny)[:, None]
        probability = (candidates.sigmoid() * weights[:, :, None, None]).amax(1)
        focus = probability.logit(eps=UNION_FLOOR).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    # Candidates that all pass may together cover nearly the whole image, which selects nothing.
    area = (focus > 0).to(scores.dtype).mean((-2, -1))
    score = torch.where(area <= selection.max_area, best_score, 0.0)
    return torch.where((score > 0)[:, None, None], focus, -LOGIT_LIMIT), score
