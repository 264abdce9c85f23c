"""The key bias of every layer from a focus mask's logits: pooling, floor, log and strength."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from medfocus.kernels import dispatch
from medfocus.kernels.arguments import LARGEST_OFFSET, check_device, check_no_nan, require
from medfocus.kernels.attention_tiles import dot_precision
from medfocus.kernels.recompute import gradients

NAME = "focus_bias"
LARGEST_GRID = 64
# Mask rows and columns per step, by the padded grid. Three bfloat16 parts of each factor fill the
# registers: of the sizes compiled for 80, 89, 90 and 100, these are the largest without a spill.
BLOCKS = {16: (64, 32), 32: (64, 16), 64: (32, 32)}
WARPS = 8
STAGES = 3


class FocusBias(NamedTuple):
    """The effect of a focus mask on CLIP's attention.

    Attributes:
        key_bias: (L, B, 1 + g²) float32, added to the attention logits of layer l; CLS first.
        patch_focus: (B, g, g) float32 in [0, 1] up to rounding: the mask's mean over each patch.
        focused: (B,) bool; False where the bias is 0, because no region was found or no patch
            shows it.
    """

    key_bias: Tensor
    patch_focus: Tensor
    focused: Tensor


def focus_bias(
    mask_logits: Tensor,
    rows: Tensor,
    cols: Tensor,
    strength: Tensor,
    floor: float,
    visible: float,
) -> FocusBias:
    """Pool a mask over CLIP's patches and compute each layer's bias: λ·log(max(m, ε)).

    m = rows · sigmoid(logits) · colsᵀ, the exact mean over a patch, since the weights are area
    overlaps. An image is focused if any of its logits is above 0 and any of its patches is above
    `visible`; otherwise the bias of all its keys is 0, as that of the CLS key always is.

    A NaN in an image's logits or weights makes its whole patch focus NaN, and the image is not
    focused: its bias is 0.

    One launch of a Triton kernel on CUDA; elsewhere PyTorch's operators. All sums are float32 in
    both (float64 with float64 logits). Logits, weights and strength receive gradients.

    Args:
        mask_logits: (B, h, w) floating point.
        rows: (B, g, h) and cols: (B, g, w) float32 area-overlap weights (float64 with float64
            logits), from `engine.preprocess.geometry.pooling_weights`.
        strength: (L,) λ of each layer, float32 (float64 with float64 logits).
        floor: ε, above 0.
        visible: the patch focus that at least one patch must exceed.

    Raises:
        InputError: arguments do not fit together; NaN in the logits, with `MEDFOCUS_CHECKS=on`.
    """
    _check(mask_logits, rows, cols, strength, floor, visible)
    if dispatch.takes_kernel(NAME, mask_logits, _refusal(mask_logits, rows.shape[1])):
        operator = torch.ops.medfocus.focus_bias
        return FocusBias(*operator(mask_logits, rows, cols, strength, floor, visible))
    dispatch.record(NAME, "torch")
    return reference(mask_logits, rows, cols, strength, floor, visible)


def reference(
    mask_logits: Tensor,
    rows: Tensor,
    cols: Tensor,
    strength: Tensor,
    floor: float,
    visible: float,
) -> FocusBias:
    """The same with PyTorch's operators."""
    patch_focus = rows @ mask_logits.to(rows.dtype).sigmoid() @ cols.transpose(-2, -1)
    # amax propagates NaN, and NaN > x is False.
    focused = (mask_logits.amax((-2, -1)) > 0) & (patch_focus.amax((-2, -1)) > visible)
    bias = patch_focus.clamp(min=floor).log().flatten(1)  # (B, g²)
    bias = F.pad(torch.where(focused[:, None], bias, 0.0), (1, 0))  # the CLS key is the first
    return FocusBias(strength[:, None, None] * bias, patch_focus, focused)


def _check(
    mask_logits: Tensor,
    rows: Tensor,
    cols: Tensor,
    strength: Tensor,
    floor: float,
    visible: float,
) -> None:
    shape = tuple(mask_logits.shape)
    require(
        mask_logits.ndim == 3 and 0 not in shape[1:],
        "mask_logits",
        f"shape {shape}",
        "pass (B, h, w) with h and w of 1 or more",
    )
    require(
        mask_logits.is_floating_point(),
        "mask_logits",
        f"dtype {mask_logits.dtype}",
        "pass float16, bfloat16, float32 or float64",
    )
    batch, height, width = shape
    grid = rows.shape[1] if rows.ndim == 3 else 0
    for name, tensor, expected, letters in (
        ("rows", rows, (batch, max(grid, 1), height), "(B, g, h)"),
        ("cols", cols, (batch, max(grid, 1), width), "(B, g, w)"),
        ("strength", strength, (max(strength.numel(), 1),), "(L,)"),
    ):
        require(
            tensor.shape == expected,
            name,
            f"shape {tuple(tensor.shape)} is not {letters} = {expected}",
            f"pass {letters} that fits logits of shape {shape}",
        )
        dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
        require(tensor.dtype == dtype, name, f"dtype {tensor.dtype}", f"pass {dtype}")
        check_device(name, tensor, mask_logits)
    require(floor > 0 and math.isfinite(floor), "floor", f"{floor}", "pass a number above 0")
    require(math.isfinite(visible), "visible", f"{visible}", "pass a finite number")
    check_no_nan("mask_logits", mask_logits)


def _refusal(mask_logits: Tensor, grid: int) -> str | None:
    if mask_logits.dtype not in dispatch.DTYPES:
        return f"dtype {mask_logits.dtype} is none of float16, bfloat16 and float32"
    if dispatch.INTERPRETED and mask_logits.dtype == torch.bfloat16:
        return "Triton's interpreter does not support bfloat16"
    if grid > LARGEST_GRID:
        return f"g = {grid} is above {LARGEST_GRID}"
    if max(mask_logits[:1].numel(), mask_logits.shape[1] * mask_logits.stride(1)) >= LARGEST_OFFSET:
        return "one mask spans 2^31 elements or more"
    return None


@torch.library.custom_op("medfocus::focus_bias", mutates_args=())
def _operator(
    mask_logits: Tensor,
    rows: Tensor,
    cols: Tensor,
    strength: Tensor,
    floor: float,
    visible: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(mask_logits, rows, strength)
    launch(mask_logits, rows, cols, strength, floor, visible, out)
    dispatch.record(NAME, "triton")
    return out.key_bias, out.patch_focus, out.focused


def _empty(mask_logits: Tensor, rows: Tensor, strength: Tensor) -> FocusBias:
    batch, grid, _ = rows.shape
    return FocusBias(
        rows.new_empty(strength.shape[0], batch, 1 + grid * grid),
        rows.new_empty(batch, grid, grid),
        rows.new_empty(batch, dtype=torch.bool),
    )


@_operator.register_fake
def _(mask_logits, rows, cols, strength, floor, visible):
    return tuple(_empty(mask_logits, rows, strength))


def _save(ctx, inputs, output):
    *tensors, ctx.floor, ctx.visible = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_key_bias, grad_patch_focus, _):
    def recompute(mask_logits: Tensor, rows: Tensor, cols: Tensor, strength: Tensor) -> Tensor:
        key_bias, patch_focus, _ = reference(
            mask_logits, rows, cols, strength, ctx.floor, ctx.visible
        )
        return torch.cat([key_bias.flatten(), patch_focus.flatten()])

    grad = torch.cat([grad_key_bias.flatten(), grad_patch_focus.flatten()])
    return *gradients(recompute, ctx.saved_tensors, ctx.needs_input_grad, grad), None, None


_operator.register_autograd(_backward, setup_context=_save)


def launch(
    mask_logits: Tensor,
    rows: Tensor,
    cols: Tensor,
    strength: Tensor,
    floor: float,
    visible: float,
    out: FocusBias,
) -> None:
    """Launch the kernel; writes `out`, whose tensors are contiguous."""
    batch, height, width = mask_logits.shape
    if not batch:
        return
    mask_logits, rows, cols = (
        tensor if tensor.stride(-1) == 1 else tensor.contiguous()
        for tensor in (mask_logits, rows, cols)
    )
    kernel[(batch,)](
        mask_logits, rows, cols, strength.contiguous(), out.key_bias, out.patch_focus, out.focused,
        height, width, strength.shape[0], floor, visible,
        mask_logits.stride(0), mask_logits.stride(1), rows.stride(0), rows.stride(1),
        cols.stride(0), cols.stride(1),
        **specialise(rows.shape[1]), num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip


def specialise(grid: int) -> dict[str, object]:
    """The kernel's compile-time constants for a patch grid."""
    side = max(16, triton.next_power_of_2(grid))
    block_h, block_w = BLOCKS[side]
    return {
        "GRID": grid,
        "SIDE": side,
        "BLOCK_H": block_h,
        "BLOCK_W": block_w,
        "STAGES": STAGES,
        "PRECISION": dot_precision(torch.float32),
    }


@triton.jit(do_not_specialize=["height", "width", "layers"])
def kernel(
    mask_logits, rows, cols, strength, key_bias, patch_focus, focused,
    height, width, layers, floor, visible,
    stride_b, stride_h, rows_stride_b, rows_stride_g, cols_stride_b, cols_stride_g,
    GRID: tl.constexpr, SIDE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program per image: rows · (sigmoid(logits) · colsᵀ), one block of mask rows at a time.

    The large product comes first, with the probabilities on the left: its tile then has as many
    rows as the block of the mask, instead of the few of the patch grid. That fills the tensor
    cores' instructions, and each warp computes its own probabilities. The mask is read once, and
    the probabilities are never written to memory.
    """
    image = tl.program_id(0).to(tl.int64)
    mask_logits += image * stride_b
    rows += image * rows_stride_b
    cols += image * cols_stride_b
    cell = tl.arange(0, SIDE)
    pooled = tl.zeros((SIDE, SIDE), tl.float32)
    highest = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    for top in tl.range(0, height, BLOCK_H):
        row = top + tl.arange(0, BLOCK_H)
        strip = tl.zeros((BLOCK_H, SIDE), tl.float32)
        for left in tl.range(0, width, BLOCK_W, num_stages=STAGES):
            column = left + tl.arange(0, BLOCK_W)
            logits = tl.load(
                mask_logits + row[:, None] * stride_h + column[None, :],
                mask=(row < height)[:, None] & (column < width)[None, :],
                other=float("-inf"),
            ).to(tl.float32)
            weights = tl.load(
                cols + cell[:, None] * cols_stride_g + column[None, :],
                mask=(cell < GRID)[:, None] & (column < width)[None, :],
                other=0.0,
            )
            highest = tl.maximum(highest, tl.max(logits, 1))
            strip = tl.dot(tl.sigmoid(logits), weights.T, strip, input_precision=PRECISION)
        weights = tl.load(
            rows + cell[:, None] * rows_stride_g + row[None, :],
            mask=(cell < GRID)[:, None] & (row < height)[None, :],
            other=0.0,
        )
        pooled = tl.dot(weights, strip, pooled, input_precision=PRECISION)

    # A NaN anywhere in a mask reaches every cell, since 0 · NaN is NaN. The hardware's maximum
    # ignores NaN, so it is tested for explicitly.
    is_focused = (
        (tl.max(highest, 0) > 0)
        & (tl.max(tl.max(pooled, 1), 0) > visible)
        & (tl.max(tl.max((pooled != pooled).to(tl.int32), 1), 0) == 0)
    )
    tl.store(focused + image, is_focused)
    inside = (cell < GRID)[:, None] & (cell < GRID)[None, :]
    patch = cell[:, None] * GRID + cell[None, :]
    tl.store(patch_focus + image * GRID * GRID + patch, pooled, mask=inside)
    bias = tl.where(is_focused, tl.log(tl.maximum(pooled, floor)), 0.0)
    for layer in range(layers):
        first = key_bias + (layer * tl.num_programs(0) + image) * (1 + GRID * GRID)
        tl.store(first, 0.0)
        tl.store(first + 1 + patch, bias * tl.load(strength + layer), mask=inside)
