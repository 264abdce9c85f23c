"""A lesion's own mask as focus logits, as an ideal segmenter would give them."""

import torch
from torch import Tensor

from medfocus.engine.preprocess.batch import NO_REGION


def logits_of_lesions(lesions: Tensor) -> Tensor:
    """Covered shares (N, h, w) in [0, 1] to focus logits with that probability."""
    logits = lesions.logit(eps=1e-7)
    none = lesions.amax((1, 2)) == 0
    return torch.where(none[:, None, None], NO_REGION, logits)
