"""Focus logits of an ideal segmenter, made from the lesion's own mask."""

import torch
from torch import Tensor

from medfocus.engine.preprocess.batch import NO_REGION


def logits_of_lesions(lesions: Tensor) -> Tensor:
    """Lesion coverage (N, h, w) in [0, 1] to focus logits with that probability."""
    logits = lesions.logit(eps=1e-7)
    none = lesions.amax((1, 2)) == 0
    return torch.where(none[:, None, None], NO_REGION, logits)
