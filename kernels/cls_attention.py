"""Attention of a single query row, as CLIP's last layer needs it: CLS over all tokens."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import check_device, check_key_bias, check_packed, refusal, require
from medfocus.kernels.attention_tiles import LOG2_E, load_columns, one_over
from medfocus.kernels.recompute import gradients
from medfocus.kernels.tile import Tile

NAME = "cls_attention"

# The kernel is memory-bound, and reads every element once, in 16-byte loads per thread. Two tiles,
# k and v, of 64 × 64 and their sums in float32 are 96 registers per thread; a wider head takes
# fewer keys per step.
ELEMENTS_PER_TILE = 64 * 64


def cls_attention(
    q: Tensor, kv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float | None = None
) -> Tensor:
    """Attention with one query per image: `softmax(scale · q kᵀ + key_bias) v`, one bias per key.

    One Triton kernel on CUDA; elsewhere PyTorch's scaled_dot_product_attention. The softmax is
    float32 in both.

    Args:
        q: (B, H·D) floating point, the query's heads in order; the last dimension is dense.
        kv: (B, N, 2·H·D) in the dtype of `q`; k and v side by side, each with its heads in
            order. The last dimension is dense, the others have any stride.
        key_bias: (B, N) or (B, H, N) float32 (float64 with float64 tokens), added to the logits;
            None for no bias. A query whose keys are all at -inf gives zeros.
        num_heads: H.
        scale: factor on q kᵀ; None for D^-0.5.

    Returns:
        (B, H·D) in the dtype of `q`, ready for the output projection.

    Raises:
        InputError: arguments do not fit together; NaN in the bias, with `MEDFOCUS_CHECKS=on`.
    """
    width = check_packed("kv", kv, "(B, N, 2·H·D)", 2, num_heads)
    batch, tokens, _ = kv.shape
    check_packed("q", q, "(B, H·D)", 1, num_heads)
    require(
        q.shape == (batch, num_heads * width) and q.dtype == kv.dtype,
        "q",
        f"{q.dtype} of shape {tuple(q.shape)}",
        f"pass {kv.dtype} of shape (B, H·D) = {(batch, num_heads * width)}",
    )
    check_device("q", q, kv)
    if key_bias is not None:
        shapes = {"(B, N)": (batch, tokens), "(B, H, N)": (batch, num_heads, tokens)}
        check_key_bias(key_bias, shapes, kv)
    if scale is None:
        scale = width**-0.5
    if dispatch.takes_kernel(NAME, kv, refusal(kv, width)):
        attended: Tensor = torch.ops.medfocus.cls_attention(q, kv, key_bias, num_heads, scale)
        return attended
    dispatch.record(NAME, "torch")
    return reference(q, kv, key_bias, num_heads, scale)


def reference(
    q: Tensor, kv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float
) -> Tensor:
    """The same with PyTorch's operators, in the dtype of `q`."""
    batch, tokens, _ = kv.shape
    # (B, N, 2·H·D) -> 2 × (B, H, N, D)
    k, v = kv.view(batch, tokens, 2, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mask = None
    if key_bias is not None:
        # (B, N) -> (B, 1, 1, N); (B, H, N) -> (B, H, 1, N)
        mask = key_bias[:, None, None] if key_bias.ndim == 2 else key_bias[:, :, None]
        mask = mask.to(q.dtype)
    query = q.view(batch, num_heads, 1, -1)
    heads = F.scaled_dot_product_attention(query, k, v, attn_mask=mask, scale=scale)
    # (B, H, 1, D) -> (B, H·D)
    return heads.reshape(batch, -1)


@torch.library.custom_op("medfocus::cls_attention", mutates_args=())
def _operator(
    q: Tensor, kv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float
) -> Tensor:
    out = q.new_empty(q.shape)
    launch(q, kv, key_bias, out, num_heads, scale, tile_for(q.shape[1] // num_heads))
    dispatch.record(NAME, "triton")
    return out


@_operator.register_fake
def _(q: Tensor, kv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float) -> Tensor:
    return q.new_empty(q.shape)


def _save(ctx, inputs, output):
    q, kv, key_bias, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(q, kv, key_bias)


def _backward(ctx, grad):
    def recompute(q: Tensor, kv: Tensor, key_bias: Tensor | None) -> Tensor:
        return reference(q, kv, key_bias, ctx.num_heads, ctx.scale)

    return *gradients(recompute, ctx.saved_tensors, ctx.needs_input_grad, grad), None, None


_operator.register_autograd(_backward, setup_context=_save)


def tile_for(width: int) -> Tile:
    """The tile for a head width D: the same number of elements for every D and sequence length."""
    return Tile(1, ELEMENTS_PER_TILE // triton.next_power_of_2(width), warps=4, stages=2)


def launch(
    q: Tensor,
    kv: Tensor,
    key_bias: Tensor | None,
    out: Tensor,
    num_heads: int,
    scale: float,
    tile: Tile,
) -> None:
    """Launch the kernel with a given tile; writes `out` (B, H·D), its last dimension dense."""
    batch, tokens, packed = kv.shape
    programs = batch * num_heads
    if not programs:
        return
    bias_strides = (0, 0)
    if key_bias is not None:
        if key_bias.stride(-1) != 1:
            key_bias = key_bias.contiguous()
        bias_strides = (key_bias.stride(0), key_bias.stride(1) if key_bias.ndim == 3 else 0)
    kernel[(programs,)](
        q, kv, key_bias, out, tokens, num_heads, scale,
        q.stride(0), kv.stride(0), kv.stride(1), *bias_strides, out.stride(0),
        **specialise(packed // 2 // num_heads, tile), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def specialise(width: int, tile: Tile) -> dict[str, object]:
    """The kernel's compile-time constants for a head width and a tile."""
    return {
        "D": width,
        "COLUMNS": triton.next_power_of_2(width),
        "BLOCK_N": tile.block_n,
        "STAGES": tile.stages,
    }


@triton.jit(do_not_specialize=["tokens", "num_heads", "bias_stride_b", "bias_stride_h"])
def kernel(
    q, kv, key_bias, out, tokens, num_heads, scale,
    q_stride_b, stride_b, stride_n, bias_stride_b, bias_stride_h, out_stride_b,
    D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: one head of one image.

    Lane n of a tile keeps its own online softmax, over keys n, n + BLOCK_N and so on, so that no
    step needs a maximum or a sum across lanes; the lanes are combined at the end.
    """
    program = tl.program_id(0)
    head = program % num_heads
    image = (program // num_heads).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    used = columns < D
    query = tl.load(q + image * q_stride_b + head * D + columns, mask=used, other=0.0)
    query = query.to(tl.float32) * (scale * LOG2_E)
    keys = kv + image * stride_b + head * D
    values = keys + num_heads * D
    if key_bias is not None:
        key_bias += image * bias_stride_b + head * bias_stride_h
    highest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    output = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
    for first in tl.range(0, tokens, BLOCK_N, num_stages=STAGES):
        key = first + tl.arange(0, BLOCK_N)
        inside = key < tokens
        k = load_columns(keys, key * stride_n, inside, D, 0, COLUMNS).to(tl.float32)
        v = load_columns(values, key * stride_n, inside, D, 0, COLUMNS).to(tl.float32)
        logits = tl.sum(k * query[None, :], 1)
        if key_bias is not None:
            logits += tl.load(key_bias + key, mask=inside, other=float("-inf")) * LOG2_E
        else:
            logits = tl.where(inside, logits, float("-inf"))
        new_highest = tl.maximum(highest, logits)
        shift = _finite(new_highest)
        weights = tl.exp2(logits - shift)
        fade = tl.exp2(highest - shift)
        total = total * fade + weights
        output = output * fade[:, None] + weights[:, None] * v
        highest = new_highest
    fade = tl.exp2(highest - _finite(tl.max(highest, 0)))
    share = one_over(tl.sum(total * fade, 0))
    answer = tl.sum(output * fade[:, None], 0) * share
    pointers = out + image * out_stride_b + head * D + columns
    tl.store(pointers, answer.to(out.dtype.element_ty), mask=used)


@triton.jit
def _finite(highest):
    """Replace -inf by 0: -inf - -inf would be NaN."""
    return tl.where(highest == float("-inf"), 0.0, highest)
