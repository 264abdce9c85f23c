"""Self-attention on sequences of different lengths, concatenated without padding."""

from itertools import pairwise

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import check_device, check_key_bias, check_packed, refusal, require
from medfocus.kernels.attention_tiles import (
    LOG2_E,
    cut,
    dot_precision,
    load_columns,
    one_over,
    store_columns,
    take_keys,
)
from medfocus.kernels.recompute import gradients
from medfocus.kernels.tile import Tile, architecture_of, choose

NAME = "masked_attention_varlen"


def masked_attention_varlen(
    qkv: Tensor,
    key_bias: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    num_heads: int,
    scale: float | None = None,
) -> Tensor:
    """`masked_attention` on a ragged batch: each token attends to the tokens of its own sequence.

    Sequence b is rows `cu_seqlens[b]` to `cu_seqlens[b + 1]`, and may be empty. On CUDA one
    Triton kernel runs without synchronising with the host; elsewhere, and for gradients, PyTorch's
    scaled_dot_product_attention runs sequence by sequence, with the offsets read on the host.

    Args:
        qkv: (T, 3·H·D) floating point; q, k and v side by side, each with its heads in order.
            The last dimension is dense, the first has any stride.
        key_bias: (T,) or (H, T) float32 (float64 with float64 tokens), added to the logits of
            every query of the key's sequence; None for no bias. A query whose keys are all at
            -inf gives zeros.
        cu_seqlens: (B + 1,) int32, the first 0, the last T, never descending.
        max_seqlen: length of the longest sequence, or more, known to the host.
        num_heads: H.
        scale: factor on q kᵀ; None for D^-0.5.

    Returns:
        (T, H·D) in the dtype of `qkv`, ready for the output projection. Rows outside every
        sequence, which exist only if the offsets are invalid, are undefined.

    Raises:
        InputError: arguments do not fit together; NaN in the bias, with `MEDFOCUS_CHECKS=on`;
            invalid offsets, with `MEDFOCUS_CHECKS=on` and on PyTorch's path.
    """
    width = check_packed("qkv", qkv, "(T, 3·H·D)", 3, num_heads)
    tokens = qkv.shape[0]
    if key_bias is not None:
        check_key_bias(key_bias, {"(T,)": (tokens,), "(H, T)": (num_heads, tokens)}, qkv)
    require(
        cu_seqlens.dtype == torch.int32 and cu_seqlens.ndim == 1 and cu_seqlens.numel() > 0,
        "cu_seqlens",
        f"{cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}",
        "pass int32 of shape (B + 1,)",
    )
    check_device("cu_seqlens", cu_seqlens, qkv)
    require(
        isinstance(max_seqlen, int) and max_seqlen >= 1,
        "max_seqlen",
        f"{max_seqlen!r}",
        "pass the length of the longest sequence as an int of 1 or more",
    )
    if scale is None:
        scale = width**-0.5
    # Offsets within one sequence are 32-bit in the kernel.
    if dispatch.takes_kernel(NAME, qkv, refusal(qkv[:max_seqlen], width)):
        if dispatch.checks_values():
            read_offsets(cu_seqlens, max_seqlen, tokens)
        attended: Tensor = torch.ops.medfocus.masked_attention_varlen(
            qkv, key_bias, cu_seqlens, max_seqlen, num_heads, scale
        )
        return attended
    dispatch.record(NAME, "torch")
    return reference(qkv, key_bias, cu_seqlens, max_seqlen, num_heads, scale)


def read_offsets(cu_seqlens: Tensor, max_seqlen: int, tokens: int) -> list[int]:
    """Copy the offsets to the host and check them; this waits for the device.

    Raises:
        InputError: they do not start at 0, descend, do not end at `tokens`, or contain a sequence
            longer than `max_seqlen`.
    """
    offsets: list[int] = cu_seqlens.tolist()
    lengths = [end - begin for begin, end in pairwise(offsets)]
    longest = max(lengths, default=0)
    hint = "pass 0, then the end of each sequence"
    require(offsets[0] == 0, "cu_seqlens", f"starts at {offsets[0]}, not at 0", hint)
    require(min(lengths, default=0) >= 0, "cu_seqlens", "descends", hint)
    require(
        offsets[-1] == tokens, "cu_seqlens", f"ends at {offsets[-1]}, not at T = {tokens}", hint
    )
    require(
        longest <= max_seqlen,
        "max_seqlen",
        f"{max_seqlen}, but a sequence has {longest} tokens",
        "pass the length of the longest sequence",
    )
    return offsets


def reference(
    qkv: Tensor,
    key_bias: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    num_heads: int,
    scale: float,
) -> Tensor:
    """The same with PyTorch's operators, in the dtype of `qkv`, sequence by sequence."""
    tokens = qkv.shape[0]
    offsets = read_offsets(cu_seqlens, max_seqlen, tokens)
    # (T, 3·H·D) -> 3 × (1, H, T, D); a batch of one, for SDPA's fused paths
    packed = qkv.view(tokens, 3, num_heads, qkv.shape[1] // (3 * num_heads))
    q, k, v = packed.permute(1, 2, 0, 3)[:, None].unbind(0)
    mask = None
    if key_bias is not None:
        # (T,) -> (1, 1, 1, T); (H, T) -> (1, H, 1, T)
        mask = key_bias.reshape(1, -1, 1, tokens).to(q.dtype)
    heads = [
        F.scaled_dot_product_attention(
            q[:, :, begin:end],
            k[:, :, begin:end],
            v[:, :, begin:end],
            attn_mask=None if mask is None else mask[..., begin:end],
            scale=scale,
        )
        for begin, end in pairwise(offsets)
        if begin < end
    ]
    # B × (1, H, n, D) -> (T, H·D); the empty slice is the result for a batch without tokens
    return torch.cat([q[:, :, :0], *heads], 2)[0].transpose(0, 1).flatten(1)


@torch.library.custom_op("medfocus::masked_attention_varlen", mutates_args=())
def _operator(
    qkv: Tensor,
    key_bias: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    num_heads: int,
    scale: float,
) -> Tensor:
    tokens, packed = qkv.shape
    out = qkv.new_empty(tokens, packed // 3)
    width = packed // 3 // num_heads
    tile = choose(NAME, max_seqlen, width, qkv.dtype, architecture_of(qkv))
    launch(qkv, key_bias, cu_seqlens, max_seqlen, out, num_heads, scale, tile)
    dispatch.record(NAME, "triton")
    return out


@_operator.register_fake
def _(
    qkv: Tensor,
    key_bias: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    num_heads: int,
    scale: float,
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


def _save(ctx, inputs, output):
    qkv, key_bias, cu_seqlens, ctx.max_seqlen, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(qkv, key_bias, cu_seqlens)


def _backward(ctx, grad):
    def recompute(qkv: Tensor, key_bias: Tensor | None, cu_seqlens: Tensor) -> Tensor:
        return reference(qkv, key_bias, cu_seqlens, ctx.max_seqlen, ctx.num_heads, ctx.scale)

    found = gradients(recompute, ctx.saved_tensors, ctx.needs_input_grad, grad)
    return *found, None, None, None


_operator.register_autograd(_backward, setup_context=_save)


def launch(
    qkv: Tensor,
    key_bias: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    out: Tensor,
    num_heads: int,
    scale: float,
    tile: Tile,
) -> None:
    """Launch the kernel with a given tile; writes `out` (T, H·D), its last dimension dense."""
    tokens, packed = qkv.shape
    longest = min(max_seqlen, tokens)
    sequences = cu_seqlens.numel() - 1
    programs = sequences * num_heads * triton.cdiv(longest, tile.block_m)
    if not programs:
        return
    bias_stride_h = 0
    if key_bias is not None:
        if key_bias.stride(-1) != 1:
            key_bias = key_bias.contiguous()
        bias_stride_h = key_bias.stride(0) if key_bias.ndim == 2 else 0
    kernel[(programs,)](
        qkv, key_bias, cu_seqlens.contiguous(), out, tokens, longest, num_heads, scale,
        qkv.stride(0), bias_stride_h, out.stride(0),
        **specialise(packed // 3 // num_heads, qkv.dtype, tile),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def specialise(width: int, dtype: torch.dtype, tile: Tile) -> dict[str, object]:
    """The kernel's compile-time constants for a head width and a tile; none is a length."""
    main, rest = cut(width, dtype)
    return {
        "D": width,
        "MAIN": main,
        "REST": rest,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


@triton.jit(do_not_specialize=["tokens", "longest", "num_heads", "bias_stride_h"])
def kernel(
    qkv, key_bias, cu_seqlens, out, tokens, longest, num_heads, scale,
    stride_n, bias_stride_h, out_stride_n,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one tile of queries of one head of one sequence.

    The grid covers sequences of `longest` tokens; programs past a sequence's end return at once.
    Whatever the offsets contain, only rows 0 to `tokens` are read and written.
    """
    row_tiles = tl.cdiv(longest, BLOCK_M)
    program = tl.program_id(0)
    start = program % row_tiles * BLOCK_M
    head = program // row_tiles % num_heads
    sequence = program // row_tiles // num_heads
    begin = tl.minimum(tl.maximum(tl.load(cu_seqlens + sequence), 0), tokens)
    end = tl.minimum(tl.maximum(tl.load(cu_seqlens + sequence + 1), begin), tokens)
    length = tl.minimum(end - begin, longest)
    if start >= length:
        return
    first = begin.to(tl.int64)
    qkv += first * stride_n + head * D
    out += first * out_stride_n + head * D
    keys = qkv + num_heads * D
    values = keys + num_heads * D
    if key_bias is not None:
        key_bias += head.to(tl.int64) * bias_stride_h + begin
    rows = start + tl.arange(0, BLOCK_M)
    exists = rows < length
    q = load_columns(qkv, rows * stride_n, exists, D, 0, MAIN)
    q_rest = q
    output = tl.zeros((BLOCK_M, MAIN), tl.float32)
    output_rest = output
    if REST > 0:
        q_rest = load_columns(qkv, rows * stride_n, exists, D, MAIN, REST)
        output_rest = tl.zeros((BLOCK_M, REST), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    scale *= LOG2_E
    for position in tl.range(0, length, BLOCK_N, num_stages=STAGES):
        output, output_rest, highest, total = take_keys(
            position, length, keys, values, key_bias, stride_n,
            q, q_rest, output, output_rest, highest, total, scale,
            D, MAIN, REST, BLOCK_N, True, PRECISION,
        )  # fmt: skip
    share = one_over(total)[:, None]
    store_columns(out, rows * out_stride_n, exists, output * share, D, 0, MAIN)
    if REST > 0:
        store_columns(out, rows * out_stride_n, exists, output_rest * share, D, MAIN, REST)
