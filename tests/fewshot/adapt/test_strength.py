"""The focus strength with the lowest out-of-fold cross-entropy is chosen."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.fewshot.adapt.folds import held_out_logits
from medfocus.fewshot.adapt.probe import fit_probe
from medfocus.fewshot.adapt.strength import STRENGTHS, choose_strength
from medfocus.models.head import Head, uniform_strength

LAYERS, CLASSES, WIDTH, IMAGES = 3, 3, 16, 30
LABELS = torch.arange(IMAGES) % CLASSES
UNGROUPED = torch.arange(IMAGES)  # one group per image
TEXT = F.normalize(torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
SCALE = torch.tensor(10.0)
DEFAULT = uniform_strength(LAYERS, 0.7)
HEAD = Head("clip", "0" * 64, "soft", ("a", "b", "c"), TEXT, SCALE, uniform_strength(LAYERS))


def refit(features: Tensor, labels: Tensor) -> Head:
    return replace(HEAD, class_embeddings=fit_probe(features, labels, TEXT, SCALE))


class Frozen:
    """Embeddings with less noise the nearer λ is to `best`."""

    def __init__(self, best: float) -> None:
        self.best = best
        self.asked: list[float] = []

    def __call__(self, strength: Tensor) -> Tensor:
        assert strength.shape == (LAYERS,)
        assert (strength == strength[0]).all()
        self.asked.append(round(float(strength[0]), 6))
        noise = torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(2))
        return F.normalize(
            TEXT[LABELS] + (0.2 + 3 * abs(float(strength[0]) - self.best)) * noise, dim=-1
        )


@pytest.mark.parametrize("best", [*STRENGTHS, 0.7])
def test_the_best_is_found(best: float) -> None:
    frozen = Frozen(best)
    choice = choose_strength("soft", DEFAULT, frozen, refit, LABELS, UNGROUPED, 0)
    assert torch.equal(choice.strength, uniform_strength(LAYERS, best))
    assert sorted(frozen.asked) == sorted((*STRENGTHS, 0.7))
    assert torch.equal(choice.features, frozen(choice.strength))
    expected = held_out_logits(refit, choice.features, LABELS, UNGROUPED, 0)
    assert choice.held_out is not None
    assert expected is not None
    assert torch.equal(choice.held_out, expected)


def test_the_default_is_kept_if_no_strength_is_clearly_better() -> None:
    """Embeddings that differ between λ by noise only."""
    kept = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)

        def frozen(_: Tensor, generator: torch.Generator = generator) -> Tensor:
            noise = 0.5 * torch.randn(IMAGES, WIDTH, generator=generator)
            return F.normalize(TEXT[LABELS] + noise, dim=-1)

        kept += torch.equal(
            choose_strength("soft", DEFAULT, frozen, refit, LABELS, UNGROUPED, 0).strength, DEFAULT
        )
    assert kept >= 8  # by chance, the default has the lowest of five losses in 4 of 20


def test_held_out_means_held_out() -> None:
    """Each fit sees four fifths of the images; an image does not influence its own logits."""
    seen: list[int] = []

    def counting(features: Tensor, labels: Tensor) -> Head:
        seen.append(len(labels))
        return refit(features, labels)

    features = Frozen(0.0)(torch.zeros(LAYERS))
    before = held_out_logits(counting, features, LABELS, UNGROUPED, 0)
    assert seen == [24] * 5
    moved = features.clone()
    moved[7] = -moved[7]
    after = held_out_logits(refit, moved, LABELS, UNGROUPED, 0)
    assert before is not None
    assert after is not None
    torch.testing.assert_close(after[7], -before[7])  # the same head, the opposite image


def test_folds_keep_groups_together() -> None:
    """Two images per patient, and one patient with images of two classes."""
    groups = torch.arange(IMAGES) // (2 * CLASSES) * CLASSES + LABELS
    groups[groups == 1] = 0
    fitted: list[Tensor] = []

    def watched(features: Tensor, labels: Tensor) -> Head:
        fitted.append(features)
        return refit(features, labels)

    features = Frozen(0.0)(torch.zeros(LAYERS))
    answers = held_out_logits(watched, features, LABELS, groups, 0)
    assert answers is not None
    assert len(fitted) == 5
    for seen in fitted:
        inside = (features[:, None] == seen[None]).all(-1).any(1)
        assert 0 < inside.sum() < IMAGES
        assert set(groups[inside].tolist()).isdisjoint(groups[~inside].tolist())
    one_each = held_out_logits(refit, features, LABELS, LABELS, 0)
    assert one_each is None  # no fold can be held out with one patient per class


@pytest.mark.parametrize("mode", ["none", "overlay", "hard"])
def test_other_modes_keep_the_default_strength(mode: str) -> None:
    frozen = Frozen(1.0)
    choice = choose_strength(mode, DEFAULT, frozen, refit, LABELS, UNGROUPED, 0)  # type: ignore[arg-type]
    assert torch.equal(choice.strength, DEFAULT)
    assert frozen.asked == [0.7]
    assert choice.held_out is not None


def test_one_image_per_class_keeps_the_default() -> None:
    frozen = Frozen(1.0)
    choice = choose_strength(
        "soft", DEFAULT, lambda strength: frozen(strength)[:3], refit, LABELS[:3], UNGROUPED[:3], 0
    )
    assert torch.equal(choice.strength, DEFAULT)
    assert choice.held_out is None
