"""Attention with one bias per key; keys and values are fetched by the tensor memory accelerator.

As `masked_attention`, one program takes one tile of queries and the online softmax, but copies are
one instruction of one thread (Hopper's TMA, by descriptors that the host makes) instead of one
address per 16 bytes in every thread; it fills rows past the last token with zeros.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from medfocus.kernels.attention_tiles import LOG2_E, dot_precision, one_over, tail
from medfocus.kernels.compiler import Compiled, compile_for
from medfocus.kernels.tile import Tile


def launch(qkv: Tensor, key_bias: Tensor, out: Tensor, heads: int, tile: Tile) -> None:
    """Writes `out` (B, N, H·D) for qkv (B, N, 3·H·D) and key_bias (B, N) float32, all dense."""
    batch, tokens, packed = qkv.shape
    width = packed // 3 // heads
    constants = specialise(tokens, heads, width, qkv.dtype, tile)

    def descriptor(tensor: Tensor, rows: int) -> TensorDescriptor:
        return TensorDescriptor.from_tensor(tensor, [1, rows, width])

    kernel[(batch * heads * triton.cdiv(tokens, tile.block_m),)](
        descriptor(qkv, tile.block_m), descriptor(qkv, tile.block_n),
        descriptor(qkv, constants["TAIL_N"]), key_bias, descriptor(out, tile.block_m), **constants,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def compiled(tile: Tile, tokens: int, heads: int, width: int, architecture: int) -> Compiled:
    """The kernel in bfloat16 for a compute capability, 90 for 9.0."""
    constants = specialise(tokens, heads, width, torch.bfloat16, tile)
    names = {
        "q_rows": "BLOCK_M",
        "kv_rows": "BLOCK_N",
        "tail_rows": "TAIL_N",
        "out_rows": "BLOCK_M",
    }
    types = {name: f"tensordesc<bf16[1,{constants[side]},{width}]>" for name, side in names.items()}
    types["key_bias"] = "*fp32"
    return compile_for(architecture, kernel, types, constants, tile.warps, tile.stages)


def specialise(
    tokens: int, heads: int, width: int, dtype: torch.dtype, tile: Tile
) -> dict[str, Any]:
    """The compile-time constants; no tile of N = 197, 257 or 577 comes without a tail."""
    return {
        "TOKENS": tokens,
        "HEADS": heads,
        "D": width,
        "SCALE": width**-0.5,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "TAIL_N": tail(tokens, tile.block_n, torch.bfloat16),
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


@triton.jit
def kernel(
    q_rows, kv_rows, tail_rows, key_bias, out_rows,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one tile of queries of one head. A head's tiles are adjacent, for L2 hits."""
    TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    start = tl.program_id(0) % TILES * BLOCK_M
    head = tl.program_id(0) // TILES % HEADS
    image = tl.program_id(0) // TILES // HEADS
    key_bias += image * TOKENS
    q = q_rows.load([image, start, head * D]).reshape(BLOCK_M, D)
    output = tl.zeros((BLOCK_M, D), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    FULL: tl.constexpr = TOKENS // BLOCK_N * BLOCK_N
    for first in tl.range(0, FULL, BLOCK_N, num_stages=STAGES):
        output, highest, total = _step(
            q, kv_rows, key_bias, image, first, head, output, highest, total,
            TOKENS, HEADS, D, SCALE, BLOCK_N, False, PRECISION,
        )  # fmt: skip
    output, highest, total = _step(
        q, tail_rows, key_bias, image, FULL, head, output, highest, total,
        TOKENS, HEADS, D, SCALE, TAIL_N, True, PRECISION,
    )  # fmt: skip
    answer = (output * one_over(total)[:, None]).to(q.dtype)
    out_rows.store([image, start, head * D], answer.reshape(1, BLOCK_M, D))


@triton.jit
def _step(
    q, rows, key_bias, image, first, head, output, highest, total,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr,
    SIZE: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The online softmax's step for keys `first` to `first + SIZE`; see `softmax_step`."""
    k = rows.load([image, first, (HEADS + head) * D]).reshape(SIZE, D)
    key = first + tl.arange(0, SIZE)
    if MASKED:
        bias = tl.load(key_bias + key, mask=key < TOKENS, other=float("-inf")) * LOG2_E
    else:
        bias = tl.load(key_bias + key) * LOG2_E
    s = tl.dot(q, k.T, input_precision=PRECISION) * (SCALE * LOG2_E) + bias[None, :]
    higher = tl.maximum(highest, tl.max(s, 1))
    # A row with no key yet is at -inf, and -inf - -inf is NaN.
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp2(s - shift[:, None])
    fade = tl.exp2(highest - shift)
    v = rows.load([image, first, (2 * HEADS + head) * D]).reshape(SIZE, D)
    total = total * fade + tl.sum(p, 1)
    output = tl.dot(p.to(v.dtype), v, output * fade[:, None], input_precision=PRECISION)
    return output, higher, total
