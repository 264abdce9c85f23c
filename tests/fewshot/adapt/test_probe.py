"""The linear probe, against an optimiser of scipy."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from medfocus.fewshot.adapt.probe import fit_probe


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three classes whose features lie off their text embeddings by a common shift."""
    generator = torch.Generator().manual_seed(41)
    text = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    labels = torch.arange(30) % 3
    shift = torch.randn(16, generator=generator)
    noise = 0.3 * torch.randn(30, 16, generator=generator)
    return F.normalize(text[labels] + shift + noise, dim=-1), labels, text


def test_against_an_optimiser_of_scipy() -> None:
    """The same objective, in float64, by another method from the same start."""
    features, labels, text = (tensor.numpy() for tensor in problem())
    features, text = features.astype(np.float64), text.astype(np.float64)

    def objective(flat: np.ndarray) -> float:
        weights = flat.reshape(3, 16)
        unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        logits = 5 * features @ unit.T
        logits -= logits.max(1, keepdims=True)
        picked = logits[np.arange(30), labels] - np.log(np.exp(logits).sum(1))
        return float(-picked.mean() + ((weights - text) ** 2).sum(1).mean())

    best = minimize(objective, text.ravel(), method="BFGS").x.reshape(3, 16)
    expected = best / np.linalg.norm(best, axis=1, keepdims=True)
    ours = fit_probe(*problem(), torch.tensor(5.0))
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-3)


def test_a_strong_pull_keeps_the_text_and_a_weak_one_fits_the_images() -> None:
    features, labels, text = problem()
    held = fit_probe(features, labels, text, torch.tensor(20.0), pull=1e6)
    torch.testing.assert_close(held, text, atol=1e-3, rtol=0)
    free = fit_probe(features, labels, text, torch.tensor(20.0), pull=1e-3)
    assert (features @ text.T).argmax(1).ne(labels).any()
    assert (features @ free.T).argmax(1).eq(labels).all()


def test_the_same_images_give_the_same_bits() -> None:
    first, second = (fit_probe(*problem(), torch.tensor(20.0)) for _ in range(2))
    assert torch.equal(first, second)
