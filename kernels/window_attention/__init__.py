"""Hiera's windowed self-attention, on the grid of QKV in the projection's own layout."""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import LARGEST_OFFSET, check_device, check_packed, refusal, require
from medfocus.kernels.masked_attention import masked_attention
from medfocus.kernels.recompute import gradients
from medfocus.kernels.tile import Tile, architecture_of, choose
from medfocus.kernels.window_attention.triton_kernel import kernel, specialise

NAME = "window_attention"


def window_attention(
    qkv: Tensor, padding: Tensor, num_heads: int, window: int, pool: bool = False
) -> Tensor:
    """Attention inside each window of a grid, with Hiera's query pooling (arXiv 2306.00989).

    Equals SAM2's MultiScaleAttention between window_partition and window_unpartition, without
    either: on CUDA one Triton kernel reads the windows where the projection wrote them. SAM2 pads
    the last windows with zeros before its projection and masks nothing, so every position outside
    the grid is a key equal to the projection's bias.

    Args:
        qkv: (B, H, W, 3·C) floating point; q, k and v side by side, each with its heads in order,
            C = heads · D. The last dimension is dense, the others have any stride.
        padding: (3·C,) floating point, rounded to the dtype of `qkv`: q, k and v outside the
            grid, that is the projection's bias. It has no gradient where the windows fit the grid.
        num_heads: number of heads.
        window: side in positions; 0 for the whole grid (without `pool` that is `masked_attention`
            on the flattened grid, and the path is recorded under that name).
        pool: queries are maxima over squares of 2×2; an odd last row or column is dropped.

    Returns:
        (B, H, W, C), with `pool` (B, H // 2, W // 2, C), in the dtype of `qkv`.

    Raises:
        InputError: arguments do not fit together.
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
    require(window >= 0, "window", f"{window} is negative", "pass a side, or 0 for the whole grid")
    require(
        not pool or window % 2 == 0,
        "window",
        f"{window} is odd, and queries are pooled 2×2 within a window",
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
    """The same with PyTorch's operators, with partition and un-partition.

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
    width = packed // 3 // num_heads
    # (B, ny·wy, nx·wx, 3·C) -> (3, B·ny·nx, heads, wy·wx, D)
    packed_qkv = qkv.reshape(-1, side_y, windows_x, side_x, 3, num_heads, width)
    packed_qkv = packed_qkv.permute(4, 0, 2, 5, 1, 3, 6)
    q, k, v = packed_qkv.reshape(3, -1, num_heads, side_y * side_x, width).unbind(0)
    if pool:
        # (B·ny·nx, heads, wy·wx, D) -> (·, D, wy, wx) -> (B·ny·nx, heads, wy/2·wx/2, D)
        q = q.reshape(-1, side_y, side_x, width).permute(0, 3, 1, 2)
        q = F.max_pool2d(q, 2).flatten(2).transpose(1, 2)
        rows, columns, side_y, side_x = rows // 2, columns // 2, side_y // 2, side_x // 2
        q = q.reshape(-1, num_heads, side_y * side_x, width)
    heads = F.scaled_dot_product_attention(q, k, v)
    # (B·ny·nx, heads, wy·wx, D) -> (B, ny·wy, nx·wx, C)
    grid = heads.reshape(-1, windows_y, windows_x, num_heads, side_y, side_x, width)
    grid = grid.permute(0, 1, 4, 2, 5, 3, 6)
    grid = grid.reshape(-1, windows_y * side_y, windows_x * side_x, packed // 3)
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
    def recompute(qkv: Tensor, padding: Tensor | None) -> Tensor:
        return reference(qkv, padding, ctx.num_heads, ctx.window, ctx.pool)

    found = gradients(recompute, ctx.saved_tensors, ctx.needs_input_grad, grad)
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
    """Launch the kernel with a given tile; writes `out` (B, H', W', C), its last dimension dense.

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
