"""The linear probe, compared with PyTorch's optimiser and gradients."""

import torch
import torch.nn.functional as F

from medfocus.fewshot.adapt.probe import fit_probe


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three classes whose features are the text embeddings plus a common shift."""
    generator = torch.Generator().manual_seed(41)
    text = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    labels = torch.arange(30) % 3
    shift = torch.randn(16, generator=generator)
    noise = 0.3 * torch.randn(30, 16, generator=generator)
    return F.normalize(text[labels] + shift + noise, dim=-1), labels, text


def test_it_finds_the_minimum_that_pytorch_finds() -> None:
    """With PyTorch's optimiser and gradients, in float64."""
    features, labels, text = problem()
    weights = text.double().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        logits = 5 * features.double() @ F.normalize(weights, dim=-1).T
        loss = F.cross_entropy(logits, labels) + (weights - text).square().sum(1).mean()
        loss.backward()
        return loss

    optimiser.step(objective)
    ours = fit_probe(features, labels, text, torch.tensor(5.0))
    assert ours.dtype == torch.float32
    assert (ours - text).abs().max() > 0.1
    torch.testing.assert_close(
        ours.double(), F.normalize(weights.detach(), dim=-1), atol=1e-4, rtol=0
    )


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
