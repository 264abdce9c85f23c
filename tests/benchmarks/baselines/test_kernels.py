"""Other implementations of the kernels compute the same thing."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from medfocus.benchmarks.baselines.attention import (
    LAYOUTS,
    Comparison,
    aligned_mask,
    exact_attention,
    flex,
    joined,
    masked,
    split_heads,
)
from medfocus.benchmarks.baselines.encoder_blocks import focus, hard, window
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.baselines.ragged import cls_row, ragged
from medfocus.benchmarks.bench.kernels.compare import relative_error
from medfocus.kernels import dispatch


def on_cpu() -> list[Comparison]:
    exact = torch.float32, "cpu"
    return [
        masked(2, 3, 21, 16, *exact),
        ragged(6, 2, 40, 16, *exact),
        cls_row(3, 2, 13, 16, *exact),
        window("fits", 2, 8, 32, 2, 4, False, *exact),
        window("padded", 2, 10, 32, 2, 4, False, *exact),
        window("pooled", 2, 8, 32, 2, 4, True, *exact),
        focus(5, 14, 64, 3, "cpu"),
    ]


@pytest.mark.parametrize("comparison", on_cpu(), ids=lambda c: f"{c.kernel}-{c.shape}")
def test_implementations_agree_with_float64(comparison: Comparison) -> None:
    exact = comparison.exact()
    assert exact.dtype == torch.float64
    ran = set()
    for each in comparison.implementations:
        if each.name in ("SDPA efficient", "SDPA cuDNN"):  # CUDA only
            with pytest.raises(RuntimeError, match=r"No (available kernel|viable backend)"):
                each.build()()
        elif each.name not in ("FlashAttention-4", "FlexAttention", "PyTorch compiled"):
            expected = exact if each.exact is None else each.exact()
            assert relative_error(each.answer(each.build()()), expected) < 2e-6
            ran.add(each.name)
    assert len(ran) >= 2


def test_every_sdpa_backend_is_tried_in_every_layout() -> None:
    comparison = masked(2, 2, 21, 32, torch.bfloat16, "cpu")
    names = [each.name for each in comparison.implementations]
    assert names[0] == OURS
    for name in ("SDPA efficient", "SDPA cuDNN", "SDPA math"):
        assert names.count(name) == 2 * len(LAYOUTS)
    for each in comparison.implementations:
        if each.name in (OURS, "SDPA math"):  # with exactly the same bias
            assert relative_error(each.answer(each.build()()), comparison.exact()) < 0.01
    q = split_heads(torch.randn(2, 5, 3 * 4 * 8), 4)[0]
    assert all(torch.equal(layout(q), q) for layout in LAYOUTS.values())
    strides = {layout(q).stride() for layout in LAYOUTS.values()}
    assert strides == {(160, 40, 8, 1), (160, 8, 32, 1)}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_adds_the_same_bias() -> None:
    qkv, bias = torch.randn(2, 21, 3 * 2 * 16), -5 * torch.rand(2, 21)
    found = joined(flex(qkv, bias, 2, flex_attention, {})())
    assert relative_error(found, exact_attention(qkv, bias, 2)) < 2e-6


def test_a_mask_has_strides_that_avoid_a_copy() -> None:
    bias = torch.randn(3, 197)
    for heads in (None, 4):
        mask = aligned_mask(bias, torch.float32, 197, heads)
        assert mask.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
        assert mask.untyped_storage().nbytes() == 3 * 200 * 4
        assert torch.equal(mask[:, -1, -1], bias)


@torch.no_grad()
def test_hard_focus_is_the_dense_answer_for_less() -> None:
    comparison = hard("medfocus_tiny", 4, torch.float32, "cpu")
    exact = comparison.exact()
    for each in comparison.implementations:
        assert not each.graph
        assert relative_error(each.answer(each.build()()), exact) < 1e-5
    assert dispatch.last_path("masked_attention_varlen") == "torch"
    dense = comparison.implementations[1].flop
    assert dense is not None
    assert 0.2 < comparison.flop / dense < 0.31
