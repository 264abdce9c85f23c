"""Each kernel, or its substitute on a CPU: its time, and its answer compared with float64."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from medfocus.kernels.cls_attention import cls_attention
from medfocus.kernels.focus_bias import focus_bias
from medfocus.kernels.masked_attention import masked_attention
from tests.kernels import test_cls_attention as cls_row
from tests.kernels import test_focus_bias as focus
from tests.kernels import test_masked_attention as masked

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGES, TOKENS, HEADS, WIDTH = 8, 197, 12, 64  # ViT-B/16


def near(found: Tensor, exact: Tensor) -> bool:
    """To the rounding of float32."""
    return float((found.double() - exact).norm() / exact.norm()) < 1e-5


def synchronised(function, *arguments):  # type: ignore[no-untyped-def]
    """The answer, once the device is done."""
    answer = function(*arguments)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return answer


@pytest.mark.parametrize("kind", ["none", "keys"])
def bench_masked_attention(benchmark: BenchmarkFixture, kind: str) -> None:
    qkv = masked.tokens_of(IMAGES, TOKENS, HEADS, WIDTH, torch.float32, DEVICE)
    bias = masked.bias_of(kind, IMAGES, HEADS, TOKENS, DEVICE)
    found = benchmark(synchronised, masked_attention, qkv, bias, HEADS)
    assert near(found, masked.by_the_formula(qkv, bias, HEADS))


def bench_cls_attention(benchmark: BenchmarkFixture) -> None:
    q, kv = cls_row.tokens_of(IMAGES, TOKENS, HEADS * WIDTH, torch.float32, DEVICE)
    bias = cls_row.bias_of("keys", IMAGES, HEADS, TOKENS, DEVICE)
    found = benchmark(synchronised, cls_attention, q, kv, bias, HEADS)
    assert near(found, cls_row.by_the_formula(q, kv, bias, HEADS))


def bench_focus_bias(benchmark: BenchmarkFixture) -> None:
    logits = 4 * torch.randn(IMAGES, 256, 256, generator=torch.Generator().manual_seed(0))
    rows, cols = focus.weights_of(IMAGES, 14, 256, 256)
    logits, rows, cols, strength = (
        each.to(DEVICE) for each in (logits, rows, cols, torch.ones(12))
    )
    inputs = logits, rows, cols, strength
    found = benchmark(synchronised, focus_bias, *inputs, 0.02, 0.1)
    bias, pooled, focused = focus.by_the_formula(*inputs, 0.02, 0.1)
    assert near(found.key_bias, bias)
    assert near(found.patch_focus, pooled)
    assert found.focused.tolist() == focused
