"""How hard the focus pulls, chosen on the training images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.fewshot.adapt.folds import Refit, held_out_logits
from medfocus.fewshot.evaluation.temperature import fit_temperature
from medfocus.settings import FocusMode

STRENGTHS = (0.0, 0.2, 0.5, 1.0)  # tried beside the preset's own; 0 is plain CLIP

Frozen = Callable[[Tensor], Tensor]  # (L,) strength to (N, E), the frozen models' unit embeddings


class Choice(NamedTuple):
    """A focus strength and what the images look like with it.

    Attributes:
        strength: (L,) the same λ in every layer.
        features: (N, E) of length 1.
        held_out: (N, C) logits of held-out folds; None where no fold can be held out.
    """

    strength: Tensor
    features: Tensor
    held_out: Tensor | None


def choose_strength(
    mode: FocusMode,
    default: Tensor,
    frozen: Frozen,
    refit: Refit,
    labels: Tensor,
    groups: Tensor,
    seed: int,
) -> Choice:
    """The λ, the same in every layer, that answers held-out folds clearly best.

    By cross-entropy, each λ at its best temperature. The default gives way only to one that is
    better by more than the standard error of the difference: a few images say little of λ.

    Args:
        mode: how masks steer; λ plays a part in `soft` alone.
        default: (L,) what the choice starts from, and stays where no fold can be held out.
        frozen: embeds the images.
        refit: fits a head to some of them.
        labels: (N,) int64; groups: (N,) int64, which no fold tears apart.
        seed: of the folds.
    """

    def answered(strength: Tensor) -> Choice:
        features = frozen(strength)
        held_out = held_out_logits(refit, features, labels, groups, seed)
        return Choice(strength, features, held_out)

    start = answered(default)
    if mode != "soft" or start.held_out is None:
        return start
    before = _losses(start, labels)
    best, margin = start, 0.0
    for value in STRENGTHS:
        other = answered(torch.full_like(default, value))
        gain = before - _losses(other, labels)
        error = float(gain.std()) / len(gain) ** 0.5
        if float(gain.mean()) > max(margin, error):
            best, margin = other, float(gain.mean())
    return best


def _losses(choice: Choice, labels: Tensor) -> Tensor:
    """The cross-entropy of each image (N,)."""
    assert choice.held_out is not None
    temperature = fit_temperature(choice.held_out, labels)
    return F.cross_entropy(choice.held_out / temperature, labels, reduction="none")
