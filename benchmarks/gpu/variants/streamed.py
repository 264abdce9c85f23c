"""Attention with one bias per key; keys and values are fetched by the tensor memory accelerator.

As in `masked_attention`, one program takes one tile of queries and the online softmax, but copies
are one instruction of one thread (Hopper's TMA, by descriptors that the host makes) instead of one
address per 16 bytes in every thread; it fills rows past the last token with zeros. The bias is part
of the matrix product, as in `whole_heads`: a first launch writes its parts, once for all heads.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from medfocus.benchmarks.gpu.variants.whole_heads import (
    LOWEST,
    PARTS,
    bias_parts,
    columns_of_16,
)
from medfocus.kernels.attention_tiles import LOG2_E, dot_precision, tail
from medfocus.kernels.compiler import Compiled, compile_for
from medfocus.kernels.tile import Tile

SPLIT_ROWS = 64


def launch(qkv: Tensor, key_bias: Tensor, out: Tensor, heads: int, tile: Tile) -> None:
    """Writes `out` (B, N, H·D) for qkv (B, N, 3·H·D) and key_bias (B, N) float32, all dense."""
    batch, tokens, packed = qkv.shape
    width = packed // 3 // heads
    constants = specialise(tokens, heads, width, qkv.dtype, tile)
    rows = tokens // tile.block_n * tile.block_n + constants["TAIL_N"]
    parts = qkv.new_empty(batch, rows, PARTS.value)
    scale, lowest = constants["SCALE"], constants["LOWEST"]
    split_bias[(batch, triton.cdiv(rows, SPLIT_ROWS))](
        key_bias, parts, tokens, rows, scale, lowest, SPLIT_ROWS
    )

    def descriptor(tensor: Tensor, rows: int, columns: int = width) -> TensorDescriptor:
        return TensorDescriptor.from_tensor(tensor, [1, rows, columns])

    kernel[(batch * heads * triton.cdiv(tokens, tile.block_m),)](
        descriptor(qkv, tile.block_m), descriptor(qkv, tile.block_n),
        descriptor(qkv, constants["TAIL_N"]), descriptor(parts, tile.block_n, PARTS.value),
        descriptor(parts, constants["TAIL_N"], PARTS.value), descriptor(out, tile.block_m),
        **constants, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def compiled(tile: Tile, tokens: int, heads: int, width: int, architecture: int) -> Compiled:
    """The kernel in bfloat16 for a compute capability, 90 for 9.0."""
    constants = specialise(tokens, heads, width, torch.bfloat16, tile)
    blocks = {
        "q_rows": ("BLOCK_M", width),
        "kv_rows": ("BLOCK_N", width),
        "kv_tail": ("TAIL_N", width),
        "bias_rows": ("BLOCK_N", PARTS.value),
        "bias_tail": ("TAIL_N", PARTS.value),
        "out_rows": ("BLOCK_M", width),
    }
    types = {
        name: f"tensordesc<bf16[1,{constants[side]},{columns}]>"
        for name, (side, columns) in blocks.items()
    }
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
        "LOWEST": LOWEST[dtype],
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "TAIL_N": tail(tokens, tile.block_n, torch.bfloat16),
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


@triton.jit
def split_bias(
    key_bias, parts, tokens, rows, SCALE: tl.constexpr, LOWEST: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """(B, N) -> (B, rows, PARTS); keys past the last one are hidden."""
    image = tl.program_id(0)
    key = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    bias = tl.load(key_bias + image * tokens + key, mask=key < tokens, other=float("-inf"))
    b = bias_parts(bias, parts.dtype.element_ty, SCALE, LOWEST)
    places = (image * rows + key)[:, None] * PARTS + tl.arange(0, PARTS)[None, :]
    tl.store(parts + places, b, mask=(key < rows)[:, None])


@triton.jit
def kernel(
    q_rows, kv_rows, kv_tail, bias_rows, bias_tail, out_rows,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr,
    LOWEST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one tile of queries of one head. A head's tiles are adjacent, for L2 hits."""
    TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    start = tl.program_id(0) % TILES * BLOCK_M
    head = tl.program_id(0) // TILES % HEADS
    image = tl.program_id(0) // TILES // HEADS
    q = q_rows.load([image, start, head * D]).reshape(BLOCK_M, D)
    output = tl.zeros((BLOCK_M, D), tl.float32)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sums = tl.zeros((BLOCK_M, 16), tl.float32)
    FULL: tl.constexpr = TOKENS // BLOCK_N * BLOCK_N
    FACTOR: tl.constexpr = SCALE * LOG2_E
    output, highest, sums = _step(
        q, kv_tail, bias_tail, image, FULL, head, output, highest, sums,
        HEADS, D, FACTOR, TAIL_N, PRECISION,
    )  # fmt: skip
    for first in tl.range(0, FULL, BLOCK_N, num_stages=STAGES):
        output, highest, sums = _step(
            q, kv_rows, bias_rows, image, first, head, output, highest, sums,
            HEADS, D, FACTOR, BLOCK_N, PRECISION,
        )  # fmt: skip
    share = tl.where(highest > LOWEST / 2 * FACTOR, 1.0 / tl.sum(sums, 1), 0.0)[:, None]
    answer = (output * share).to(q.dtype)
    out_rows.store([image, start, head * D], answer.reshape(1, BLOCK_M, D))


@triton.jit
def _step(
    q, kv, bias, image, first, head, output, highest, sums,
    HEADS: tl.constexpr, D: tl.constexpr, FACTOR: tl.constexpr, SIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The online softmax's step for keys `first` to `first + SIZE`; see `softmax_step`."""
    b = bias.load([image, first, 0]).reshape(SIZE, PARTS)
    k = kv.load([image, first, (HEADS + head) * D]).reshape(SIZE, D)
    v = kv.load([image, first, (2 * HEADS + head) * D]).reshape(SIZE, D)
    ones = tl.full((q.shape[0], PARTS), 1.0, q.dtype)
    s = tl.dot(ones, b.T, input_precision=PRECISION)
    s = tl.dot(q, k.T, s, input_precision=PRECISION)
    higher = tl.maximum(highest, tl.max(s, 1) * FACTOR)
    p = tl.exp2(s * FACTOR - higher[:, None])
    fade = tl.exp2(highest - higher)
    sums = sums * fade[:, None] + tl.sum(columns_of_16(p), 1)
    output = tl.dot(p.to(v.dtype), v, output * fade[:, None], input_precision=PRECISION)
    return output, higher, sums
