"""How hard the focus pulls, chosen on the training images."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from medfocus.fewshot.adapt.folds import Refit, held_out_logits
from medfocus.fewshot.evaluation.temperature import fit_temperature
from medfocus.models.head import DEFAULT_STRENGTH, uniform_strength
from medfocus.settings import FocusMode

# λ = 0 is among them: where the focus does not help, plain CLIP remains.
STRENGTHS = (0.0, 0.1, 0.2, 0.5, 1.0)

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
    mode: FocusMode, layers: int, frozen: Frozen, refit: Refit, labels: Tensor, seed: int
) -> Choice:
    """The λ that answers held-out folds best: by cross-entropy, each at its best temperature.

    The default where λ plays no part (all modes but `soft`), or no fold can be held out.

    Args:
        mode: how masks steer.
        layers: L.
        frozen: embeds the images.
        refit: fits a head to some of them.
        labels: (N,) int64.
        seed: of the folds.
    """
    default = _try(DEFAULT_STRENGTH, layers, frozen, refit, labels, seed)
    if mode != "soft" or default.held_out is None:
        return default
    others = [value for value in STRENGTHS if value != DEFAULT_STRENGTH]
    tried = [_try(value, layers, frozen, refit, labels, seed) for value in others]
    return min([default, *tried], key=lambda choice: _cross_entropy(choice, labels))


def _try(
    value: float, layers: int, frozen: Frozen, refit: Refit, labels: Tensor, seed: int
) -> Choice:
    strength = uniform_strength(layers, value)
    features = frozen(strength)
    return Choice(strength, features, held_out_logits(refit, features, labels, seed))


def _cross_entropy(choice: Choice, labels: Tensor) -> float:
    assert choice.held_out is not None
    temperature = fit_temperature(choice.held_out, labels)
    return float(F.cross_entropy(choice.held_out / temperature, labels))
