"""Hiera's windowed self-attention, on the grid of QKV as the projection wrote it."""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import (
    LARGEST_OFFSET,
    check_device,
    check_packed,
    refusal,
    require,
)
from medfocus.kernels.attention_tiles import (
    LOG2_E,
    cut,
    dot_precision,
    load_columns,
    load_keys,
    one_over,
    softmax_step,
    store_columns,
    tail,
)
from medfocus.kernels.masked_attention import masked_attention
from medfocus.kernels.recompute import gradients
from medfocus.kernels.tile import Tile, architecture_of, choose

NAME = "window_attention"


def window_attention(
    qkv: Tensor, padding: Tensor, num_heads: int, window: int, pool: bool = False
) -> Tensor:
    """Attention inside each window of a grid, with Hiera's query pooling (arXiv 2306.00989).

    As SAM2's MultiScaleAttention between window_partition and window_unpartition, with neither:
    on CUDA one Triton kernel reads windows where the projection wrote them. SAM2 fills the last
    windows with zeros before its projection and masks nothing, so every position outside the
    grid is a key that equals the projection's bias.

    Args:
        qkv: (B, H, W, 3·C) floating point; q, k and v side by side, each with its heads in order,
            C = heads · D. The last dimension is dense, the others have any stride.
        padding: (3·C,) floating point, rounded to the dtype of `qkv`: q, k and v outside the
            grid, that is the projection's bias. Without gradient where the windows fit the grid.
        num_heads: heads.
        window: positions a side; 0 is the whole grid (without `pool` that is `masked_attention`
            on the flattened grid, under whose name the path is recorded).
        pool: queries are maxima over squares of 2×2; an odd last row or column gives none.

    Returns:
        (B, H, W, C), or (B, H // 2, W // 2, C) pooled, in the dtype of `qkv`.

    Raises:
        InputError: arguments that do not fit together.
    """
    width = check_packed("qkv", qkv, "(B, H, W, 3·C)", 3, num_heads)
    _, rows, columns, packed = qkv.shape
    require(
        padding.shape == (packed,),
        "padding",
        f"shape {tuple(padding.shape)} is not (3·C,) = {(packed,)}",
        "pass the bias of the projection",
    )
    require(
        padding.is_floating_point(),
        "padding",
        f"dtype {padding.dtype}",
        "pass the bias of the projection, floating point",
    )
    check_device("padding", padding, qkv)
    require(window >= 0, "window", f"{window}", "pass a side, or 0 for the whole grid")
    require(
        not pool or window % 2 == 0,
        "window",
        f"{window} is odd, and queries are pooled 2×2 inside it",
        "pass an even side",
    )
    require(
        not pool or min(rows, columns) >= 2,
        "qkv",
        f"a grid of {rows}×{columns} has no square of 2×2 to pool",
        "pass two or more rows and columns",
    )
    if window == 0 and not pool:
        # (B, H, W, 3·C) -> (B, H·W, 3·C), and (B, H·W, C) -> (B, H, W, C)
        flat = masked_attention(qkv.flatten(1, 2), None, num_heads)
        return flat.reshape(-1, rows, columns, packed // 3)
    used = padding.to(qkv.dtype) if window and (rows % window or columns % window) else None
    if dispatch.takes_kernel(NAME, qkv, _refusal(qkv, width)):
        attended: Tensor = torch.ops.medfocus.window_attention(qkv, used, num_heads, window, pool)
        return attended
    dispatch.record(NAME, "torch")
    return reference(qkv, used, num_heads, window, pool)


def _refusal(qkv: Tensor, width: int) -> str | None:
    if qkv.shape[1] * qkv.stride(1) + qkv.shape[2] * qkv.stride(2) >= LARGEST_OFFSET:
        return "one image spans 2^31 elements or more"
    return refusal(qkv, width)


def reference(
    qkv: Tensor, padding: Tensor | None, num_heads: int, window: int, pool: bool
) -> Tensor:
    """The same by PyTorch's own operators, with partition and un-partition.

    `padding` may be None where the windows fit the grid.
    """
    _, rows, columns, packed = qkv.shape
    side_y, side_x = (window, window) if window else (rows, columns)
    more_rows, more_columns = -rows % side_y, -columns % side_x
    if padding is not None:
        right = padding.expand(qkv.shape[0], rows, more_columns, packed)
        below = padding.expand(qkv.shape[0], more_rows, columns + more_columns, packed)
        qkv = torch.cat([torch.cat([qkv, right], 2), below], 1)
    windows_y, windows_x = (rows + more_rows) // side_y, (columns + more_columns) // side_x
    # (B, ny·wy, nx·wx, 3·C) -> (B·ny·nx, wy·wx, 3·C)
    windows = qkv.reshape(-1, windows_y, side_y, windows_x, side_x, packed)
    windows = windows.transpose(2, 3).reshape(-1, side_y * side_x, packed)
    q, k, v = windows.chunk(3, -1)
    if pool:
        # (B·ny·nx, wy·wx, C) -> (B·ny·nx, C, wy, wx) -> (B·ny·nx, wy/2·wx/2, C)
        q = q.reshape(-1, side_y, side_x, packed // 3).permute(0, 3, 1, 2)
        q = F.max_pool2d(q, 2).flatten(2).transpose(1, 2)
        rows, columns, side_y, side_x = rows // 2, columns // 2, side_y // 2, side_x // 2
    # (·, T, C) -> (·, heads, T, D)
    split = (num_heads, packed // 3 // num_heads)
    q, k, v = (part.reshape(-1, part.shape[1], *split).transpose(1, 2) for part in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v)
    # (B·ny·nx, heads, wy·wx, D) -> (B, ny·wy, nx·wx, C)
    grid = heads.transpose(1, 2).reshape(-1, windows_y, windows_x, side_y, side_x, packed // 3)
    grid = grid.transpose(2, 3).reshape(-1, windows_y * side_y, windows_x * side_x, packed // 3)
    return grid[:, :rows, :columns]


@torch.library.custom_op("medfocus::window_attention", mutates_args=())
def _operator(
    qkv: Tensor, padding: Tensor | None, num_heads: int, window: int, pool: bool
) -> Tensor:
    _, rows, columns, packed = qkv.shape
    out = qkv.new_empty(_output_shape(qkv, pool))
    tokens = window**2 if window else rows * columns
    width = packed // 3 // num_heads
    tile = choose(NAME, tokens, width, qkv.dtype, architecture_of(qkv))
    launch(qkv, padding, out, num_heads, window, pool, tile)
    dispatch.record(NAME, "triton")
    return out


@_operator.register_fake
def _(qkv: Tensor, padding: Tensor | None, num_heads: int, window: int, pool: bool) -> Tensor:
    return qkv.new_empty(_output_shape(qkv, pool))


def _output_shape(qkv: Tensor, pool: bool) -> tuple[int, int, int, int]:
    batch, rows, columns, packed = qkv.shape
    stride = 2 if pool else 1
    return batch, rows // stride, columns // stride, packed // 3


def _save(ctx, inputs, output):
    qkv, padding, ctx.num_heads, ctx.window, ctx.pool = inputs
    ctx.save_for_backward(qkv, padding)


def _backward(ctx, grad):
    def again(qkv: Tensor, padding: Tensor | None) -> Tensor:
        return reference(qkv, padding, ctx.num_heads, ctx.window, ctx.pool)

    found = gradients(again, ctx.saved_tensors, ctx.needs_input_grad, grad)
    return *found, None, None, None


_operator.register_autograd(_backward, setup_context=_save)


def launch(
    qkv: Tensor,
    padding: Tensor | None,
    out: Tensor,
    num_heads: int,
    window: int,
    pool: bool,
    tile: Tile,
) -> None:
    """Run the kernel with a given tile, into `out` (B, H', W', C) with a dense last dimension.

    `padding` is dense and in the dtype of `qkv`, or None where the windows fit the grid.
    """
    batch, rows, columns, packed = qkv.shape
    width = packed // 3 // num_heads
    constants = specialise((rows, columns), width, qkv.dtype, window, pool, tile)
    windows = triton.cdiv(rows, constants["WINDOW_Y"]) * triton.cdiv(columns, constants["WINDOW_X"])
    programs = batch * triton.cdiv(windows, constants["GROUP"]) * num_heads * constants["ROW_TILES"]
    if not programs:
        return
    kernel[(programs,)](
        qkv, padding, out, rows, columns, num_heads, width**-0.5,
        *qkv.stride()[:3], *out.stride()[:3],
        **constants, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def specialise(
    grid: tuple[int, int], width: int, dtype: torch.dtype, window: int, pool: bool, tile: Tile
) -> dict[str, Any]:
    """The kernel's compile-time constants for a grid (H, W), a width, a window and a tile.

    Small windows share a program while the queries and the keys of the group fit one tile: four
    windows of 4×4 are 64×64 logits, of which the blocks on the diagonal count. Where the grid
    cuts windows, each is alone, since they differ in size.
    """
    side_y, side_x = (window, window) if window else grid
    stride = 2 if pool else 1
    queries, keys = (side_y // stride) * (side_x // stride), side_y * side_x
    padded = bool(grid[0] % side_y or grid[1] % side_x)
    group = 1 if padded else max(1, min(tile.block_m // queries, tile.block_n // keys))
    block_m, tail_m = _sides(group * queries, tile.block_m)
    block_n, tail_n = _sides(group * keys, tile.block_n)
    main, rest = cut(width)
    return {
        "WINDOW_Y": side_y,
        "WINDOW_X": side_x,
        "POOL": stride,
        "PADDED": padded,
        "GROUP": group,
        "D": width,
        "MAIN": main,
        "REST": rest,
        "ROW_TILES": triton.cdiv(group * queries, block_m),
        "BLOCK_M": block_m,
        "TAIL_M": tail_m,
        "BLOCK_N": block_n,
        # Masked tiles, for keys that fill no tile of their own or not all of whose logits count.
        "TAIL_N": tail_n or (block_n if padded or group > 1 else 0),
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


def _sides(size: int, block: int) -> tuple[int, int]:
    """Side of the full tiles, no larger than `size` needs, and of the last one."""
    block = block if size >= block else tail(size, block)
    return block, tail(size, block)


@triton.jit(do_not_specialize=["height", "width", "num_heads"])
def kernel(
    qkv, padding, out, height, width, num_heads, scale,
    stride_b, stride_y, stride_x, out_stride_b, out_stride_y, out_stride_x,
    WINDOW_Y: tl.constexpr, WINDOW_X: tl.constexpr, POOL: tl.constexpr, PADDED: tl.constexpr,
    GROUP: tl.constexpr, D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    ROW_TILES: tl.constexpr, BLOCK_M: tl.constexpr, TAIL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one tile of queries of one window, or of a group of small ones, in one head.

    A grid of 64×64 has 5×5 windows of 14×14: 16 whole ones, eight of 14×8 and one of 8×8. Only
    positions inside the grid are counted and read, so the cut windows have 112 and 64 queries and
    keys instead of 196, and the padded positions of each are one key that counts many times.
    """
    windows_x = tl.cdiv(width, WINDOW_X)
    windows = windows_x * tl.cdiv(height, WINDOW_Y)
    groups = tl.cdiv(windows, GROUP)
    program = tl.program_id(0)
    row_tile = program % ROW_TILES
    head = program // ROW_TILES % num_heads
    group = program // ROW_TILES // num_heads % groups
    image = (program // ROW_TILES // num_heads // groups).to(tl.int64)
    qkv += image * stride_b + head * D
    out += image * out_stride_b + head * D
    if PADDED:
        padding += head * D
    packed = num_heads * D
    start = row_tile * BLOCK_M
    if TAIL_M == 0 or TAIL_M == BLOCK_M:
        _attend(
            qkv, padding, out, start, group, windows, windows_x, height, width, packed, scale,
            stride_y, stride_x, out_stride_y, out_stride_x,
            WINDOW_Y, WINDOW_X, POOL, PADDED, GROUP,
            D, MAIN, REST, BLOCK_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip
    elif row_tile < ROW_TILES - 1:
        _attend(
            qkv, padding, out, start, group, windows, windows_x, height, width, packed, scale,
            stride_y, stride_x, out_stride_y, out_stride_x,
            WINDOW_Y, WINDOW_X, POOL, PADDED, GROUP,
            D, MAIN, REST, BLOCK_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip
    else:
        _attend(
            qkv, padding, out, start, group, windows, windows_x, height, width, packed, scale,
            stride_y, stride_x, out_stride_y, out_stride_x,
            WINDOW_Y, WINDOW_X, POOL, PADDED, GROUP,
            D, MAIN, REST, TAIL_M, BLOCK_N, TAIL_N, STAGES, PRECISION,
        )  # fmt: skip


@triton.jit
def _attend(
    qkv, padding, out, start, group, windows, windows_x, height, width, packed, scale,
    stride_y, stride_x, out_stride_y, out_stride_x,
    WINDOW_Y: tl.constexpr, WINDOW_X: tl.constexpr, POOL: tl.constexpr, PADDED: tl.constexpr,
    GROUP: tl.constexpr, D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, TAIL_N: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Queries `start` to `start + ROWS` of a group of windows against all its keys."""
    QUERY_Y: tl.constexpr = WINDOW_Y // POOL
    QUERY_X: tl.constexpr = WINDOW_X // POOL
    QUERIES: tl.constexpr = QUERY_Y * QUERY_X
    KEYS: tl.constexpr = WINDOW_Y * WINDOW_X
    key_columns = WINDOW_X
    query_columns = QUERY_X
    if PADDED:
        key_rows = tl.minimum(height - group // windows_x * WINDOW_Y, WINDOW_Y)
        key_columns = tl.minimum(width - group % windows_x * WINDOW_X, WINDOW_X)
        keys = key_rows * key_columns
        # Windows start at even positions, so no square of 2×2 reaches out of the grid.
        query_columns = tl.maximum(key_columns // POOL, 1)
        queries = (key_rows // POOL) * (key_columns // POOL)
        end = tl.where(start < queries, keys, 0)  # a cut window needs fewer tiles of queries
    elif GROUP > 1:
        present = tl.minimum(windows - group * GROUP, GROUP)
        keys = present * KEYS
        queries = present * QUERIES
        end = GROUP * KEYS
    else:
        keys = KEYS
        queries = QUERIES
        end = KEYS
    row = start + tl.arange(0, ROWS)
    exists = row < queries
    y, x = _place(row, group, windows_x, query_columns, QUERY_Y, QUERY_X, GROUP)
    q = _load_queries(qkv, y, x, exists, stride_y, stride_x, D, 0, MAIN, POOL)
    q_rest = q
    if REST > 0:
        q_rest = _load_queries(qkv, y, x, exists, stride_y, stride_x, D, MAIN, REST, POOL)
    output = tl.zeros((ROWS, MAIN), tl.float32)
    output_rest = output
    if REST > 0:
        output_rest = tl.zeros((ROWS, REST), tl.float32)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    scale *= LOG2_E
    if PADDED:
        # The padded positions share one key and one value: with its logit as the highest, each
        # weighs 1, and together they weigh their number.
        count = (KEYS - keys).to(tl.float32)
        total += count
        k_column, v_column = _padding(padding, packed, D, 0, MAIN)
        logit = tl.sum(q.to(tl.float32) * k_column, 1)
        output += count * v_column
        if REST > 0:
            k_column, v_column = _padding(padding, packed, D, MAIN, REST)
            logit += tl.sum(q_rest.to(tl.float32) * k_column, 1)
            output_rest += count * v_column
        highest = tl.where(count > 0, logit * scale, float("-inf"))
    # One loop is enough where masked tiles are as large as others.
    ONE_LOOP: tl.constexpr = GROUP > 1 or (PADDED and TAIL_N == BLOCK_N)
    full = 0 if ONE_LOOP else end // BLOCK_N * BLOCK_N
    for first in tl.range(0, full, BLOCK_N, num_stages=STAGES):
        key = first + tl.arange(0, BLOCK_N)
        y_key, x_key = _place(key, group, windows_x, key_columns, WINDOW_Y, WINDOW_X, GROUP)
        place = y_key * stride_y + x_key * stride_x
        k, k_rest, v, v_rest = load_keys(qkv + packed, qkv + 2 * packed, place, None, D, MAIN, REST)
        output, output_rest, highest, total = softmax_step(
            q, q_rest, k, k_rest, v, v_rest, None, output, output_rest, highest, total, scale,
            REST, PRECISION,
        )  # fmt: skip
    if TAIL_N > 0:
        for first in tl.range(full, end, TAIL_N, num_stages=STAGES if ONE_LOOP else 1):
            key = first + tl.arange(0, TAIL_N)
            inside = key < keys
            y_key, x_key = _place(key, group, windows_x, key_columns, WINDOW_Y, WINDOW_X, GROUP)
            place = y_key * stride_y + x_key * stride_x
            k, k_rest, v, v_rest = load_keys(
                qkv + packed, qkv + 2 * packed, place, inside, D, MAIN, REST
            )
            if GROUP > 1:
                together = (row // QUERIES)[:, None] == (key // KEYS)[None, :]
                bias = tl.where(together & inside[None, :], 0.0, float("-inf"))
            else:
                bias = tl.where(inside, 0.0, float("-inf"))
            output, output_rest, highest, total = softmax_step(
                q, q_rest, k, k_rest, v, v_rest, bias, output, output_rest, highest, total, scale,
                REST, PRECISION,
            )  # fmt: skip
    share = one_over(total)[:, None]
    place = y * out_stride_y + x * out_stride_x
    store_columns(out, place, exists, output * share, D, 0, MAIN)
    if REST > 0:
        store_columns(out, place, exists, output_rest * share, D, MAIN, REST)


@triton.jit
def _place(
    index, group, windows_x, columns, SIDE_Y: tl.constexpr, SIDE_X: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Row and column in the grid of tokens that are counted window by window."""
    window = group
    if GROUP > 1:
        window = group * GROUP + index // (SIDE_Y * SIDE_X)
        index = index % (SIDE_Y * SIDE_X)
    y = window // windows_x * SIDE_Y + index // columns
    x = window % windows_x * SIDE_X + index % columns
    return y, x


@triton.jit
def _load_queries(
    queries, y, x, exists, stride_y, stride_x,
    D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """Queries at row y and column x of the output, the highest of 2×2 positions where pooled."""
    place = y * POOL * stride_y + x * POOL * stride_x
    q = load_columns(queries, place, exists, D, FIRST, WIDTH)
    if POOL == 2:
        for step in tl.static_range(1, 4):
            other = place + step // 2 * stride_y + step % 2 * stride_x
            other = load_columns(queries, other, exists, D, FIRST, WIDTH)
            # NaN stays, as in PyTorch; Triton's maximum of bfloat16 is float32.
            q = tl.maximum(q, other, tl.PropagateNan.ALL).to(other.dtype)
    return q


@triton.jit
def _padding(padding, packed, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """(1, WIDTH) float32 columns of the padded positions' key and value."""
    column = FIRST + tl.arange(0, WIDTH)
    k = tl.load(padding + packed + column, mask=column < D, other=0.0)
    v = tl.load(padding + 2 * packed + column, mask=column < D, other=0.0)
    return k.to(tl.float32)[None, :], v.to(tl.float32)[None, :]
