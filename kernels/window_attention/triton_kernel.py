"""The Triton kernel of `window_attention`, and how a grid of windows is divided into tiles."""

from typing import Any

import torch
import triton
import triton.language as tl

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
from medfocus.kernels.tile import Tile


def specialise(
    grid: tuple[int, int], width: int, dtype: torch.dtype, window: int, pool: bool, tile: Tile
) -> dict[str, Any]:
    """The kernel's compile-time constants for a grid (H, W), a head width, a window and a tile.

    Small windows share a program while the queries and the keys of the group fit one tile: four
    windows of 4×4 are 64×64 logits, of which only the blocks on the diagonal are used. Where the
    grid cuts windows, every window has its own program, since they differ in size.
    """
    side_y, side_x = (window, window) if window else grid
    stride = 2 if pool else 1
    queries, keys = (side_y // stride) * (side_x // stride), side_y * side_x
    padded = bool(grid[0] % side_y or grid[1] % side_x)
    group = 1 if padded else max(1, min(tile.block_m // queries, tile.block_n // keys))
    block_m, tail_m = _sides(group * queries, tile.block_m, dtype)
    block_n, tail_n = _sides(group * keys, tile.block_n, dtype)
    main, rest = cut(width, dtype)
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
        # Masked tiles, for keys that do not fill a tile or whose logits are not all used.
        "TAIL_N": tail_n or (block_n if padded or group > 1 else 0),
        "STAGES": tile.stages,
        "PRECISION": dot_precision(dtype),
    }


def _sides(size: int, block: int, dtype: torch.dtype) -> tuple[int, int]:
    """Side of the full tiles, no larger than `size` needs, and of the last, partial one."""
    block = min(block, max(16, triton.next_power_of_2(size)))
    return block, tail(size, block, dtype)


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
    positions inside the grid are counted and read, so that the cut windows have 112 and 64
    queries and keys instead of 196, and the padded positions of each window are one key, weighted
    by their number.
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
        if qkv.dtype.element_ty == tl.float32:
            # The same value, but not a constant: a loop of one iteration would be unrolled, and
            # the three bfloat16 parts of all operands would be in registers at once.
            end = tl.minimum(KEYS, height * width)
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
        # has weight 1, and together they have their number as weight.
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
    # One masked loop is enough where the last tile is a full one.
    ONE_LOOP: tl.constexpr = GROUP > 1 or TAIL_N == BLOCK_N
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
                same_window = (row // QUERIES)[:, None] == (key // KEYS)[None, :]
                bias = tl.where(same_window & inside[None, :], 0.0, float("-inf"))
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
    """Row and column in the grid of tokens that are numbered window by window."""
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
    """Queries at row y and column x of the output; with pooling, maxima over 2×2 positions."""
    place = y * POOL * stride_y + x * POOL * stride_x
    q = load_columns(queries, place, exists, D, FIRST, WIDTH)
    if POOL == 2:
        for step in tl.static_range(1, 4):
            other = place + step // 2 * stride_y + step % 2 * stride_x
            other = load_columns(queries, other, exists, D, FIRST, WIDTH)
            # NaN propagates, as in PyTorch; Triton's maximum of bfloat16 is float32.
            q = tl.maximum(q, other, tl.PropagateNan.ALL).to(other.dtype)
    return q


@triton.jit
def _padding(padding, packed, D: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """Columns of the padded positions' key and value, each (1, WIDTH) float32."""
    column = FIRST + tl.arange(0, WIDTH)
    k = tl.load(padding + packed + column, mask=column < D, other=0.0)
    v = tl.load(padding + 2 * packed + column, mask=column < D, other=0.0)
    return k.to(tl.float32)[None, :], v.to(tl.float32)[None, :]
