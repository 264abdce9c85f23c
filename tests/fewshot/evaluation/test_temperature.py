"""The temperature compared with a grid search."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.temperature import fit_temperature
from tests.errors import refuses


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_it_finds_the_minimum_on_a_grid(scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = scale * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    truth = torch.distributions.Categorical(logits=logits / scale)
    torch.manual_seed(5)
    labels = truth.sample()
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    losses = [float(F.cross_entropy(logits / t, labels)) for t in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=2e-3)


def test_at_the_minimum_the_mean_logit_is_as_expected() -> None:
    """The derivative with respect to 1 / T is 0: mean true logit = mean expected logit."""
    generator = torch.Generator().manual_seed(6)
    logits = 3 * torch.randn(300, 4, generator=generator)
    labels = torch.multinomial((logits / 3).softmax(-1), 1, generator=generator)[:, 0]
    temperature = fit_temperature(logits, labels)
    shares = (logits.double() / temperature).softmax(-1)
    expected = (shares * logits.double()).sum(1).mean()
    true = logits.double().gather(1, labels[:, None]).mean()
    torch.testing.assert_close(expected, true, rtol=0, atol=1e-5)
    assert fit_temperature(logits, labels) == temperature


def test_all_wrong_predictions_give_the_highest_temperature() -> None:
    """There is no minimum: the cross-entropy decreases up to the limit."""
    logits = 5 * torch.eye(3)
    assert fit_temperature(logits, torch.tensor([1, 2, 0])) == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "labels", "code"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "input.shape_mismatch"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "input.shape_mismatch"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "input.shape_mismatch"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64), "input.not_finite"),
    ],
)
def test_invalid_input(logits: torch.Tensor, labels: torch.Tensor, code: str) -> None:
    with refuses(InputError, code, "logits"):
        fit_temperature(logits, labels)
