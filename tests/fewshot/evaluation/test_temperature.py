"""The temperature against a fine grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medfocus.fewshot.evaluation.temperature import fit_temperature


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_against_a_grid(scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = scale * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    truth = torch.distributions.Categorical(logits=logits / scale)
    torch.manual_seed(5)
    labels = truth.sample()
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    losses = [float(F.cross_entropy(logits / t, labels)) for t in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=2e-3)
