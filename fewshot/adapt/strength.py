"""The focus strength λ, chosen on the training images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.fewshot.adapt.folds import Refit, held_out_logits
from medfocus.fewshot.evaluation.temperature import fit_temperature
from medfocus.settings import FocusMode

STRENGTHS = (0.0, 0.2, 0.5, 1.0)  # candidates in addition to the preset's; 0 is plain CLIP

Frozen = Callable[[Tensor], Tensor]  # (L,) strength to (N, E), the frozen models' unit embeddings


class Choice(NamedTuple):
    """A focus strength and the embeddings and logits that result from it.

    Attributes:
        strength: (L,) the same λ in every layer.
        features: (N, E) of length 1.
        held_out: (N, C) out-of-fold logits; None if no fold can be held out.
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
    """Choose the λ, the same in every layer, by cross-validation.

    Compares the out-of-fold cross-entropy, each λ at its best temperature. Since a few images say
    little about λ, the default is kept unless another one is better by more than the standard
    error of the difference.

    Args:
        mode: how masks steer CLIP; only `soft` has a λ to choose.
        default: (L,) the default, kept if no fold can be held out.
        frozen: embeds the images.
        refit: fits a head to some of them.
        labels: (N,) int64; groups: (N,) int64, kept together by the folds.
        seed: of the folds.
    """

    def evaluate(strength: Tensor) -> Choice:
        features = frozen(strength)
        held_out = held_out_logits(refit, features, labels, groups, seed)
        return Choice(strength, features, held_out)

    start = evaluate(default)
    if mode != "soft" or start.held_out is None:
        return start
    start_losses = _losses(start, labels)
    best, margin = start, 0.0
    for value in STRENGTHS:
        other = evaluate(torch.full_like(default, value))
        gain = start_losses - _losses(other, labels)
        error = float(gain.std()) / len(gain) ** 0.5
        if float(gain.mean()) > max(margin, error):
            best, margin = other, float(gain.mean())
    return best


def _losses(choice: Choice, labels: Tensor) -> Tensor:
    """The out-of-fold cross-entropy of each image (N,)."""
    assert choice.held_out is not None
    temperature = fit_temperature(choice.held_out, labels)
    return F.cross_entropy(choice.held_out / temperature, labels, reduction="none")
