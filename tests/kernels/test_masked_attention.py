"""Key-biased attention on packed QKV against the formula in float64."""

import pytest
import torch

from medfocus.errors import InputError
from medfocus.kernels import masked_attention


def by_the_formula(
    qkv: torch.Tensor, key_bias: torch.Tensor | None, heads: int, scale: float | None
) -> torch.Tensor:
    """Head by head, query by query weights written out; float64."""
    qkv = qkv.double()
    q, k, v = qkv.chunk(3, -1)
    width = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ k[..., part].transpose(1, 2)
        logits = logits * (width**-0.5 if scale is None else scale)
        if key_bias is not None:
            bias = key_bias if key_bias.dim() == 2 else key_bias[:, head]
            logits = logits + bias.double()[:, None, :]
        weights = torch.nan_to_num(logits.softmax(-1), nan=0.0)
        outputs.append(weights @ v[..., part])
    return torch.cat(outputs, -1)


def case(batch: int, tokens: int, heads: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens * 100 + heads)
    return torch.randn(batch, tokens, 3 * heads * width, generator=generator)


@pytest.mark.parametrize("tokens", [1, 2, 17, 197])
@pytest.mark.parametrize(("heads", "width"), [(1, 16), (3, 64), (12, 64), (2, 72)])
@pytest.mark.parametrize("bias", ["none", "keys", "heads", "hidden"])
def test_against_float64(tokens: int, heads: int, width: int, bias: str) -> None:
    qkv = case(2, tokens, heads, width)
    key_bias = {
        "none": None,
        "keys": -5 * torch.rand(2, tokens),
        "heads": -5 * torch.rand(2, heads, tokens),
        "hidden": torch.where(torch.arange(tokens) % 3 == 0, 0.0, -1e4).expand(2, -1),
    }[bias]
    ours = masked_attention(qkv, key_bias, heads)
    expected = by_the_formula(qkv, key_bias, heads, None)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-5)


def test_a_scale_of_ones_own() -> None:
    qkv = case(1, 9, 2, 16)
    expected = by_the_formula(qkv, None, 2, 0.7)
    torch.testing.assert_close(
        masked_attention(qkv, None, 2, 0.7).double(), expected, atol=2e-6, rtol=0
    )


def test_rows_whose_keys_are_all_masked_give_zeros() -> None:
    bias = torch.zeros(2, 5)
    bias[1] = float("-inf")
    output = masked_attention(case(2, 5, 2, 16), bias, 2)
    assert (output[1] == 0).all()
    assert output[0].abs().min() > 0


def test_gradients() -> None:
    qkv = case(1, 4, 2, 8).double().requires_grad_()
    bias = (-torch.rand(1, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: masked_attention(a, b, 2), (qkv, bias))


@pytest.mark.parametrize("shape", [(2, 6), (3, 5), (2, 3, 5), (5,), (2, 2, 5, 5)])
def test_a_bias_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="key_bias"):
        masked_attention(case(2, 5, 2, 16), torch.zeros(shape), 2)


def test_a_width_that_does_not_fit() -> None:
    with pytest.raises(InputError, match="qkv"):
        masked_attention(torch.zeros(1, 4, 3 * 10), None, 4)
