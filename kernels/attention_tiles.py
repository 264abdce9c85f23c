"""Building blocks of all attention kernels: tiles of packed rows, and the online softmax.

The online softmax over key tiles is Milakov and Gimelshein's (arXiv 1805.02867), as used by
FlashAttention (arXiv 2205.14135); in base 2, since the hardware has exp2 and no exp.

The sides of Triton's tiles are powers of two. A head width between two powers is split in two:
D = 72 is computed as 64 + 16 columns (64 + 32 in float32), D = 96 as 64 + 32, instead of 128.
"""

import torch
import triton
import triton.language as tl

from medfocus.kernels import dispatch

LOG2_E = tl.constexpr(1.4426950408889634)


def cut(width: int, dtype: torch.dtype) -> tuple[int, int]:
    """The columns of a head's two parts: powers of two from 16 on; the second may be 0.

    In float32 the second is not narrower than 32: with 16 columns the compiler keeps so much in
    registers at once that it spills for compute capability 12.0.
    """
    whole = max(16, triton.next_power_of_2(width))
    first = whole // 2
    rest = max(32 if dtype == torch.float32 else 16, triton.next_power_of_2(width - first))
    return (first, rest) if first >= 16 and first + rest < whole else (whole, 0)


def tail(size: int, block: int, dtype: torch.dtype) -> int:
    """Side of the last, partial tile; 0 if the full tiles cover everything.

    16 is the smallest side that tensor-core instructions support: 197 keys in tiles of 64 leave
    5, which a tile of 16 covers, so that 208 are computed instead of 256. float32 takes a whole
    tile: with its three bfloat16 parts (see `dot_precision`) a second loop exceeds the registers.
    """
    left = size % block
    if not left:
        return 0
    return block if dtype == torch.float32 else max(16, triton.next_power_of_2(left))


def dot_precision(dtype: torch.dtype) -> str:
    """How float32 runs on tensor cores: as three bfloat16 parts, in six products.

    That keeps 24 bits at the cost of three tf32 products, which keep 21. The narrower types
    ignore it.
    """
    return "bf16x6" if dtype == torch.float32 and not dispatch.INTERPRETED else "tf32"


@triton.jit
def load_columns(
    pointer, rows, mask, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Load columns FIRST to FIRST + WIDTH of packed rows; zeros outside D and where masked.

    `rows` holds element offsets; `mask` is a vector, or None where every row exists.
    """
    columns = FIRST + tl.arange(0, WIDTH)
    pointers = pointer + rows[:, None] + columns[None, :]
    if FIRST + WIDTH > D:
        inside = (columns < D)[None, :]
        if mask is not None:
            inside = inside & mask[:, None]
        return tl.load(pointers, mask=inside, other=0.0)
    elif mask is not None:
        return tl.load(pointers, mask=mask[:, None], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def load_keys(keys, values, rows, mask, D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr):
    """Load both parts of a tile of keys and of values; without a second part, the first again."""
    k = load_columns(keys, rows, mask, D, 0, MAIN)
    v = load_columns(values, rows, mask, D, 0, MAIN)
    k_rest, v_rest = k, v
    if REST > 0:
        k_rest = load_columns(keys, rows, mask, D, MAIN, REST)
        v_rest = load_columns(values, rows, mask, D, MAIN, REST)
    return k, k_rest, v, v_rest


@triton.jit
def store_columns(
    pointer, rows, mask, values, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """The counterpart of `load_columns`."""
    columns = FIRST + tl.arange(0, WIDTH)
    inside = mask[:, None] & (columns < D)[None, :]
    pointers = pointer + rows[:, None] + columns[None, :]
    tl.store(pointers, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def softmax_step(
    q, q_rest, k, k_rest, v, v_rest, bias, output, output_rest, highest, total, scale,
    REST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add one tile of keys to the online softmax.

    With logits s = scale · q kᵀ + bias, already in base 2, and m the highest logit so far:
    p = 2^(s - m), total = Σ p, output = p v; sums made with a lower m are scaled down.

    Args:
        q: (M, D₁), k and v: (n, D₁); the `_rest` parts (·, D₂), used where REST > 0.
        bias: (n,) or (M, n) float32 in base 2, -inf where there is no key; None for no bias.
        output: (M, D₁) float32, not yet divided by `total`.
        highest, total: (M,) float32.
    """
    logits = tl.dot(q, k.T, input_precision=PRECISION)
    if REST > 0:
        logits = tl.dot(q_rest, k_rest.T, logits, input_precision=PRECISION)
    logits = logits * scale
    if bias is not None:
        if len(bias.shape) == 1:
            logits = logits + bias[None, :]
        else:
            logits = logits + bias
    new_highest = tl.maximum(highest, tl.max(logits, 1))
    # A row with no key yet is at -inf, and -inf - -inf is NaN.
    shift = tl.where(new_highest == float("-inf"), 0.0, new_highest)
    weights = tl.exp2(logits - shift[:, None])
    fade = tl.exp2(highest - shift)
    total = total * fade + tl.sum(weights, 1)
    weights = weights.to(v.dtype)
    output = tl.dot(weights, v, output * fade[:, None], input_precision=PRECISION)
    if REST > 0:
        output_rest = tl.dot(
            weights, v_rest, output_rest * fade[:, None], input_precision=PRECISION
        )
    return output, output_rest, new_highest, total


@triton.jit
def take_keys(
    first, length, keys, values, key_bias, stride_n,
    q, q_rest, output, output_rest, highest, total, scale,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add keys `first` to `first + BLOCK` of a sequence; with MASKED, those below `length`.

    Rows of keys and values are `stride_n` elements apart; `key_bias` is (length,) or None. The
    other arguments are those of `softmax_step`.
    """
    key = first + tl.arange(0, BLOCK)
    bias = None
    inside = None
    if MASKED:
        inside = key < length
        if key_bias is not None:
            bias = tl.load(key_bias + key, mask=inside, other=float("-inf")) * LOG2_E
        else:
            bias = tl.where(inside, 0.0, float("-inf"))
    elif key_bias is not None:
        bias = tl.load(key_bias + key) * LOG2_E
    k, k_rest, v, v_rest = load_keys(keys, values, key * stride_n, inside, D, MAIN, REST)
    return softmax_step(
        q, q_rest, k, k_rest, v, v_rest, bias, output, output_rest, highest, total, scale,
        REST, PRECISION,
    )  # fmt: skip


@triton.jit
def one_over(total):
    """1 / total; 1 for rows without keys, whose total is 0, so that their output is 0."""
    return 1.0 / tl.where(total == 0.0, 1.0, total)
