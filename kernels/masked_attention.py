"""Self-attention with one additive bias per key, on QKV in the projection's own layout."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import check_key_bias, check_packed, refusal
from medfocus.kernels.attention_tiles import (
    LOG2_E,
    cut,
    dot_precision,
    load_columns,
    one_over,
    store_columns,
    tail,
    take_keys,
)
from medfocus.kernels.recompute import gradients
from medfocus.kernels.tile import Tile, architecture_of, choose

NAME = "masked_attention"


def masked_attention(
    qkv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float | None = None
) -> Tensor:
    """Attention `softmax(scale · q kᵀ + key_bias) v`, with one bias per key.

    On CUDA one Triton kernel reads q, k and v where the projection wrote them and adds the bias
    while the logits are in registers; elsewhere PyTorch's scaled_dot_product_attention runs.
    The softmax is float32 in both.

    Args:
        qkv: (B, N, 3·H·D) floating point; q, k and v side by side, each with its heads in order.
            The last dimension is dense, the others have any stride.
        key_bias: (B, N) or (B, H, N) float32 (float64 with float64 tokens), added to the logits
            of every query; None for no bias. A query whose keys are all at -inf gives zeros.
        num_heads: H.
        scale: factor on q kᵀ; None for D^-0.5.

    Returns:
        (B, N, H·D) in the dtype of `qkv`, ready for the output projection.

    Raises:
        InputError: arguments do not fit together; NaN in the bias, with `MEDFOCUS_CHECKS=on`.
    """
    width = check_packed("qkv", qkv, "(B, N, 3·H·D)", 3, num_heads)
    batch, tokens, _ = qkv.shape
    if key_bias is not None:
        shapes = {"(B, N)": (batch, tokens), "(B, H, N)": (batch, num_heads, tokens)}
        check_key_bias(key_bias, shapes, qkv)
    if scale is None:
        scale = width**-0.5
    if dispatch.takes_kernel(NAME, qkv, refusal(qkv, width)):
        attended: Tensor = torch.ops.medfocus.masked_attention(qkv, key_bias, num_heads, scale)
        return attended
    dispatch.record(NAME, "torch")
    return reference(qkv, key_bias, num_heads, scale)


def reference(qkv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float) -> Tensor:
    """The same with PyTorch's operators, in the dtype of `qkv`."""
    batch, tokens, _ = qkv.shape
    # (B, N, 3·H·D) -> 3 × (B, H, N, D)
    q, k, v = qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mask = None
    if key_bias is not None:
        # (B, N) -> (B, 1, 1, N); (B, H, N) -> (B, H, 1, N)
        mask = key_bias[:, None, None] if key_bias.ndim == 2 else key_bias[:, :, None]
        mask = mask.to(q.dtype)
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    # (B, H, N, D) -> (B, N, H·D)
    return heads.transpose(1, 2).reshape(batch, tokens, -1)


@torch.library.custom_op("medfocus::masked_attention", mutates_args=())
def _operator(qkv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float) -> Tensor:
    batch, tokens, packed = qkv.shape
    out = qkv.new_empty(batch, tokens, packed // 3)
    width = packed // 3 // num_heads
    tile = choose(NAME, tokens, width, qkv.dtype, architecture_of(qkv))
    launch(qkv, key_bias, out, num_heads, scale, tile)
    dispatch.record(NAME, "triton")
    return out


@_operator.register_fake
def _(qkv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _save(ctx, inputs, output):
    qkv, key_bias, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(qkv, key_bias)


def _backward(ctx, grad):
    def recompute(qkv: Tensor, key_bias: Tensor | None) -> Tensor:
        return reference(qkv, key_bias, ctx.num_heads, ctx.scale)

    return *gradients(recompute, ctx.saved_tensors, ctx.needs_input_grad, grad), None, None


_operator.register_autograd(_backward, setup_context=_save)


def launch(
    qkv: Tensor,
    key_bias: Tensor | None,
    out: Tensor,
    num_heads: int,
    scale: float,
    tile: Tile,
) -> None:
    """Launch the kernel with a given tile; writes `out` (B, N, H·D), its last dimension dense."""
    batch, tokens, packed = qkv.shape
    constants = specialise(tokens, packed // 3 // num_heads, qkv.dtype, tile)
    programs = batch * num_heads * triton.cdiv(tokens, tile.block_m)
    if not programs:
        return
    bias_strides = (0, 0)
    if key_bias is not None:
        if key_bias.stride(-1) != 1:
            key_bias = key_bias.contiguous()
        bias_strides = (key_bias.stride(0), key_bias.stride(1) if key_bias.ndim == 3 else 0)
    kernel[(programs,)](
        qkv, key_bias, out, tokens, num_heads, scale,
        qkv.stride(0), qkv.stride(1), *bias_strides, out.stride(0), out.stride(1),
        **constants, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def specialise(tokens: int, width: int, dtype: torch.dtype, tile: Tile) -> dict[str, object]:
    """The kernel's compile-time constants for a sequence length, a head width and a tile."""
    main, rest = cut(width, dtype)
    return {
        "D": width,
        "MAIN": main,
        "REST": rest,
        "BLOCK_M": tile.block_m,
        "TAIL_M": tail(tokens, tile.block_m, dtype),
        "BLOCK_N": tile.block_n,
        "TAIL_N": tail(tokens, tile.block_n, dtype),
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


@triton.jit(do_not_specialize=["tokens", "num_heads", "bias_stride_b", "bias_stride_h"])
def kernel(
    qkv, key_bias, out, tokens, num_heads, scale,
    stride_b, stride_n, bias_stride_b, bias_stride_h, out_stride_b, out_stride_n,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    BLOCK_M: tl.constexpr, TAIL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one tile of queries of one head. A head's tiles are adjacent, for L2 hits.

    197 queries and keys in tiles of 128 and 64: the queries are 128 + 69, the last tile masked;
    the keys are 3 · 64 + 5, the last 5 in a tile of 16. So 256 × 208 logits are computed, of
    which 197 × 197, 73%, are used; with square tiles of 128 it would be 59%.
    """
    row_tiles = tl.cdiv(tokens, BLOCK_M)
    program = tl.program_id(0)
    row_tile = program % row_tiles
    head = program // row_tiles % num_heads
    image = (program // row_tiles // num_heads).to(tl.int64)
    qkv += image * stride_b + head * D
    out += image * out_stride_b + head * D
    if key_bias is not None:
        key_bias += image * bias_stride_b + head * bias_stride_h
    packed = num_heads * D
    start = row_tile * BLOCK_M
    if TAIL_M == 0 or TAIL_M == BLOCK_M:
        _attend(
            qkv, key_bias, out, start, tokens, packed, scale, stride_n, out_stride_n,
            D, MAIN, REST, BLOCK_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip
    elif row_tile < row_tiles - 1:
        _attend(
            qkv, key_bias, out, start, tokens, packed, scale, stride_n, out_stride_n,
            D, MAIN, REST, BLOCK_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip
    else:
        _attend(
            qkv, key_bias, out, start, tokens, packed, scale, stride_n, out_stride_n,
            D, MAIN, REST, TAIL_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip


@triton.jit
def _attend(
    qkv, key_bias, out, start, tokens, packed, scale, stride_n, out_stride_n,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Queries `start` to `start + ROWS` against all keys."""
    rows = start + tl.arange(0, ROWS)
    exists = rows < tokens
    q = load_columns(qkv, rows * stride_n, exists, D, 0, MAIN)
    q_rest = q
    output = tl.zeros((ROWS, MAIN), tl.float32)
    output_rest = output
    if REST > 0:
        q_rest = load_columns(qkv, rows * stride_n, exists, D, MAIN, REST)
        output_rest = tl.zeros((ROWS, REST), tl.float32)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    keys, values = qkv + packed, qkv + 2 * packed
    scale *= LOG2_E
    if TAIL_N == BLOCK_N:  # one masked loop is enough where the last tile is a full one
        for first in tl.range(0, tokens, BLOCK_N, num_stages=STAGES):
            output, output_rest, highest, total = take_keys(
                first, tokens, keys, values, key_bias, stride_n,
                q, q_rest, output, output_rest, highest, total, scale,
                D, MAIN, REST, BLOCK_N, True, PRECISION,
            )  # fmt: skip
    else:
        in_full_tiles = tokens // BLOCK_N * BLOCK_N
        # The last keys come first: after the loop, ptxas would make every matrix instruction in it
        # wait for the one before (its warning C7515).
        if TAIL_N > 0:
            output, output_rest, highest, total = take_keys(
                in_full_tiles, tokens, keys, values, key_bias, stride_n,
                q, q_rest, output, output_rest, highest, total, scale,
                D, MAIN, REST, TAIL_N, True, PRECISION,
            )  # fmt: skip
        for first in tl.range(0, in_full_tiles, BLOCK_N, num_stages=STAGES):
            output, output_rest, highest, total = take_keys(
                first, tokens, keys, values, key_bias, stride_n,
                q, q_rest, output, output_rest, highest, total, scale,
                D, MAIN, REST, BLOCK_N, False, PRECISION,
            )  # fmt: skip
    share = one_over(total)[:, None]
    store_columns(out, rows * out_stride_n, exists, output * share, D, 0, MAIN)
    if REST > 0:
        store_columns(out, rows * out_stride_n, exists, output_rest * share, D, MAIN, REST)
