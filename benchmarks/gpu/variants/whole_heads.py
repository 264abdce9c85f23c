"""Attention with one bias per key; a program takes all queries of a head, one tile after another.

The head's keys and values stay in shared memory, so that they are read once; `masked_attention`
reads them once per tile of queries. They are in pieces whose sides are powers of two, unrolled:
197 keys are 128 + 64 + 16. Where all logits of a tile fit the registers, the softmax sees them at
once (`one_pass`), with one maximum per row and no output that is scaled down; elsewhere it goes
from piece to piece.

The bias is part of the matrix product: q kᵀ + b/scale = [q, 1, 1, 1] [k, b₀, b₁, b₂]ᵀ, where the
sum of the three b in the tokens' dtype has the bits of float32. As a vector along the keys it
would take as many registers as half the logits of a row; and the scale is then applied together
with the subtraction of the maximum, in one instruction.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels.attention_tiles import LOG2_E, dot_precision
from medfocus.kernels.compiler import Compiled, compile_for
from medfocus.kernels.tuning.case import argument_types

# Takes the place of -inf, whose parts would be NaN; a row whose keys are all below half of it has
# none. At -4e6 the multiplication and the subtraction, fused, leave a difference of equal logits
# far below 1; float16 ends at 65504.
LOWEST = {torch.float16: -6e4, torch.bfloat16: -4e6, torch.float32: -4e6}
STAGES = 2  # nothing is pipelined, but with 1 the products are not asynchronous
PARTS = tl.constexpr(16)  # columns of the bias: the least of a matrix instruction


@dataclass(frozen=True)
class HeadTile:
    """The tile of one program.

    Attributes:
        rows: queries at a time.
        largest: keys of the largest piece.
        one_pass: whether the softmax sees all keys at once.
        programs: among which the tiles of a head are divided.
        warps: per program.
    """

    rows: int
    largest: int
    one_pass: bool
    programs: int
    warps: int


def pieces(tokens: int, largest: int) -> tuple[int, ...]:
    """Powers of two from 16 to `largest` that cover the keys, each at least half full."""
    left, found = tokens, []
    while left > 0:
        piece = max(16, min(largest, 1 << (left.bit_length() - 1)))
        found.append(piece)
        left -= piece
    return tuple(found)


def launch(qkv: Tensor, key_bias: Tensor, out: Tensor, heads: int, tile: HeadTile) -> None:
    """Writes `out` (B, N, H·D) for qkv (B, N, 3·H·D) and key_bias (B, N) float32, all dense."""
    batch, tokens, packed = qkv.shape
    constants = specialise(tokens, heads, packed // 3 // heads, qkv.dtype, tile)
    kernel[(batch * heads * tile.programs,)](
        qkv, key_bias, out, **constants, num_warps=tile.warps, num_stages=STAGES
    )


def compiled(tile: HeadTile, tokens: int, heads: int, width: int, architecture: int) -> Compiled:
    """The kernel in bfloat16 for a compute capability, 90 for 9.0."""
    constants = specialise(tokens, heads, width, torch.bfloat16, tile)
    types = argument_types(kernel, torch.bfloat16)
    return compile_for(architecture, kernel, types, constants, tile.warps, STAGES)


def specialise(
    tokens: int, heads: int, width: int, dtype: torch.dtype, tile: HeadTile
) -> dict[str, object]:
    """The compile-time constants; everything except the batch, as in a plan of TensorRT."""
    sides = pieces(tokens, tile.largest)
    return {
        "TOKENS": tokens,
        "HEADS": heads,
        "D": width,
        "SCALE": width**-0.5,
        "LOWEST": LOWEST[dtype],
        "BLOCK_M": tile.rows,
        "STARTS": tuple(sum(sides[:i]) for i in range(len(sides))),
        "PIECES": sides,
        "ONE_PASS": tile.one_pass,
        "PROGRAMS": tile.programs,
        "PRECISION": dot_precision(dtype),
    }


@triton.jit
def kernel(
    qkv, key_bias, out,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr,
    LOWEST: tl.constexpr, BLOCK_M: tl.constexpr, STARTS: tl.constexpr, PIECES: tl.constexpr,
    ONE_PASS: tl.constexpr, PROGRAMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: every `PROGRAMS`th tile of queries of a head, in one pass or piece by piece."""
    WIDTH: tl.constexpr = HEADS * D
    FACTOR: tl.constexpr = SCALE * LOG2_E
    part = tl.program_id(0) % PROGRAMS
    head = tl.program_id(0) // PROGRAMS % HEADS
    image = (tl.program_id(0) // PROGRAMS // HEADS).to(tl.int64)
    qkv += image * (TOKENS * 3 * WIDTH) + head * D
    out += image * (TOKENS * WIDTH) + head * D
    key_bias += image * TOKENS
    keys = ()
    values = ()
    biases = ()
    for i in tl.static_range(len(PIECES)):
        k, v, b = _piece(qkv, key_bias, STARTS[i], PIECES[i], TOKENS, WIDTH, D, SCALE, LOWEST)
        keys = keys + (k,)
        values = values + (v,)
        biases = biases + (b,)
    columns = tl.arange(0, D)[None, :]
    ones = tl.full((BLOCK_M, PARTS), 1.0, qkv.dtype.element_ty)
    rows = (part * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    q = tl.load(qkv + rows * (3 * WIDTH) + columns, mask=rows < TOKENS, other=0.0)
    for _ in tl.range(part, tl.cdiv(TOKENS, BLOCK_M), PROGRAMS, num_stages=2):
        next_rows = rows + PROGRAMS * BLOCK_M
        # The next tile's queries are on their way during this one's softmax.
        next_places = qkv + next_rows * (3 * WIDTH) + columns
        if ONE_PASS:
            logits = ()
            columnwise = tl.full((BLOCK_M, 16), float("-inf"), tl.float32)
            for i in tl.static_range(len(PIECES)):
                s = tl.dot(ones, biases[i].T, input_precision=PRECISION)
                s = tl.dot(q, keys[i].T, s, input_precision=PRECISION)
                columnwise = tl.maximum(columnwise, tl.max(columns_of_16(s), 1))
                logits = logits + (s,)
            highest = tl.max(columnwise, 1)
            next_q = tl.load(next_places, mask=next_rows < TOKENS, other=0.0)
            output = tl.zeros((BLOCK_M, D), tl.float32)
            sums = tl.zeros((BLOCK_M, 16), tl.float32)
            for i in tl.static_range(len(PIECES)):
                p = tl.exp2(logits[i] * FACTOR - (highest * FACTOR)[:, None])
                sums += tl.sum(columns_of_16(p), 1)
                output = tl.dot(p.to(q.dtype), values[i], output, input_precision=PRECISION)
            total = tl.sum(sums, 1)
        else:
            output = tl.zeros((BLOCK_M, D), tl.float32)
            total = tl.zeros((BLOCK_M,), tl.float32)
            highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
            for i in tl.static_range(len(PIECES)):
                s = tl.dot(ones, biases[i].T, input_precision=PRECISION)
                s = tl.dot(q, keys[i].T, s, input_precision=PRECISION)
                higher = tl.maximum(highest, tl.max(s, 1))
                fade = tl.exp2((highest - higher) * FACTOR)
                p = tl.exp2(s * FACTOR - (higher * FACTOR)[:, None])
                total = total * fade + tl.sum(p, 1)
                output = tl.dot(
                    p.to(q.dtype), values[i], output * fade[:, None], input_precision=PRECISION
                )
                highest = higher
                if i == len(PIECES) // 2:
                    next_q = tl.load(next_places, mask=next_rows < TOKENS, other=0.0)
        share = tl.where(highest > LOWEST / 2, 1.0 / total, 0.0)[:, None]
        answer = (output * share).to(out.dtype.element_ty)
        tl.store(out + rows * WIDTH + columns, answer, mask=rows < TOKENS)
        rows = next_rows
        q = next_q


@triton.jit
def _piece(
    qkv, key_bias, FIRST: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr, LOWEST: tl.constexpr,
):  # fmt: skip
    """Keys and values (SIZE, D) from `FIRST` on, and the bias as columns (SIZE, PARTS)."""
    key = FIRST + tl.arange(0, SIZE)
    pointers = qkv + WIDTH + key[:, None] * (3 * WIDTH) + tl.arange(0, D)[None, :]
    if FIRST + SIZE > TOKENS:
        inside = key < TOKENS
        k = tl.load(pointers, mask=inside[:, None], other=0.0)
        v = tl.load(pointers + WIDTH, mask=inside[:, None], other=0.0)
        bias = tl.load(key_bias + key, mask=inside, other=float("-inf"))
    else:
        k = tl.load(pointers)
        v = tl.load(pointers + WIDTH)
        bias = tl.load(key_bias + key)
    return k, v, bias_parts(bias, k.dtype, SCALE, LOWEST)


@triton.jit
def bias_parts(bias, DTYPE: tl.constexpr, SCALE: tl.constexpr, LOWEST: tl.constexpr):
    """(n,) float32 -> (n, PARTS) in `DTYPE`: three numbers whose sum is bias/scale, and zeros."""
    rest = tl.maximum(bias / SCALE, LOWEST)[:, None]
    column = tl.arange(0, PARTS)[None, :]
    parts = tl.zeros((bias.shape[0], PARTS), DTYPE)
    for i in tl.static_range(3):
        parts = tl.where(column == i, rest.to(DTYPE), parts)
        rest -= rest.to(DTYPE).to(tl.float32)
    return parts


@triton.jit
def columns_of_16(x):
    """(M, n) -> (M, n/16, 16): a thread has all of a column of these, a warp's lanes share a row.

    So the lanes exchange their sums once for all pieces, and not once per piece.
    """
    return tl.reshape(x, (x.shape[0], x.shape[1] // 16, 16))
