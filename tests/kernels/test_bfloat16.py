"""bfloat16, which Triton's interpreter cannot compute: the kernels' roundings, in PyTorch.

The kernels' own tests run in bfloat16 on a GPU only. Here their checks judge a function with the
kernels' arithmetic, so that the limits are known to hold before.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.kernels import dispatch
from tests.kernels import test_cls_attention as cls
from tests.kernels import test_masked_attention as masked
from tests.kernels import test_masked_attention_varlen as varlen
from tests.kernels import test_window_attention as windowed

HALF = torch.bfloat16
LOG2_E = math.log2(math.e)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    *,
    block: int,
    weights_in: torch.dtype,
) -> Tensor:
    """What a kernel computes in tiles of `block` keys, from bfloat16 values given as float32.

    Logits, weights, their sum and the output so far are float32; `weights_in` is the dtype of the
    weights in their product with v: float32 for cls_attention, which has no matrix product.
    """
    scale = LOG2_E * (q.shape[-1] ** -0.5 if scale is None else scale)
    highest = torch.full((*q.shape[:-1], 1), -math.inf)
    total, output = torch.zeros_like(highest), torch.zeros_like(q)
    for keys in torch.arange(k.shape[-2]).split(block):
        logits = q @ k[..., keys, :].transpose(-2, -1) * scale
        if attn_mask is not None:
            logits = logits + attn_mask[..., keys] * LOG2_E
        before, highest = highest, torch.maximum(highest, logits.amax(-1, keepdim=True))
        shift = torch.where(highest == -math.inf, 0.0, highest)
        weights, fade = torch.exp2(logits - shift), torch.exp2(before - shift)
        total = total * fade + weights.sum(-1, keepdim=True)
        output = output * fade + weights.to(weights_in).float() @ v[..., keys, :]
    return output / torch.where(total == 0, 1.0, total)


@pytest.fixture(params=[16, 64], autouse=True)
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions that the checks call compute as the kernels do, in tiles of so many keys."""
    baseline = F.scaled_dot_product_attention

    def run(
        name: str, layout: Callable[..., Tensor], weights_in: torch.dtype, *arguments: object
    ) -> Tensor:
        wide = [t.float() if isinstance(t, Tensor) and t.dtype == HALF else t for t in arguments]
        if name != windowed.NAME:  # which has no scale among its arguments
            packed = arguments[1] if name == cls.NAME else arguments[0]
            assert isinstance(packed, Tensor)
            assert isinstance(arguments[-1], int)
            wide.append(
                (packed.shape[-1] // (2 if name == cls.NAME else 3) // arguments[-1]) ** -0.5
            )
        kernel = partial(attention, block=request.param, weights_in=weights_in)
        monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
        found = layout(*wide)
        monkeypatch.setattr(F, "scaled_dot_product_attention", baseline)
        dispatch.record(name, "triton")
        dispatch.record("masked_attention", "triton")  # to which one window of all is left
        return found.to(HALF)

    for module, name, weights_in in (
        (masked, "masked_attention", HALF),
        (varlen, varlen.NAME, HALF),
        (cls, cls.NAME, torch.float32),
        (windowed, windowed.NAME, HALF),
    ):
        monkeypatch.setattr(module, name, partial(run, name, module.reference, weights_in))


@pytest.mark.parametrize("kind", masked.BIASES)
@pytest.mark.parametrize(("tokens", "width"), [(1, 64), (65, 72), (197, 64)])
def test_masked_attention(tokens: int, width: int, kind: str) -> None:
    masked.check(2, tokens, 3, width, kind, HALF, "cpu")


@pytest.mark.parametrize("kind", varlen.BIASES)
def test_masked_attention_varlen(kind: str) -> None:
    varlen.check([0, 1, 2, 17, 0, 0, 50, 65, 0], 3, 64, kind, HALF, "cpu")


@pytest.mark.parametrize("kind", cls.BIASES)
@pytest.mark.parametrize("tokens", [1, 65, 197])
def test_cls_attention(tokens: int, kind: str) -> None:
    cls.check(2, tokens, 3, 64, kind, HALF, "cpu")


@pytest.mark.parametrize(("grid", "window", "pool"), windowed.CASES)
def test_window_attention(grid: tuple[int, int], window: int, pool: bool) -> None:
    windowed.check(grid, window, pool, 2, 56, HALF, "cpu")
