"""Resize, crop or pad, and normalise a batch's images of any sizes, for one model's input."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch

NAME = "resize"
CPU = torch.device("cpu")
BITS = 22  # fractional bits of a weight; with the bits of a level they fill an int32
# Pixels of one channel per program, in the order of memory, so that a warp reads and writes along a
# row. A thread has eight of them: eight loads at a time hide the memory's latency.
BLOCK = 1024
WARPS = 4


class Pass(NamedTuple):
    """One pass over one image: each pixel of the result is a weighted sum along one axis.

    Attributes:
        source: offset of the image's first byte in what the pass reads.
        channel, row, column: strides of the image, bytes.
        height, width: of the result.
        out: offset of the result's first element in what the pass writes; (3, height, width).
        vertical: 1 if the sum is along a column, 0 if along a row.
        taps: offset in `taps` of a (1 + K, size) table, where size is the result's along the axis:
            each pixel's first source pixel, and its K weights in units of 2⁻²². All K source pixels
            must be inside the image.
        weights: K.
    """

    source: int
    channel: int
    row: int
    column: int
    height: int
    width: int
    out: int
    vertical: int
    taps: int
    weights: int


FIELDS = len(Pass._fields)


def resize(
    pixels: Tensor,
    taps: Tensor,
    passes: Tensor,
    host_passes: Tensor,
    levels: Tensor,
    between: Tensor,
    out: Tensor,
) -> None:
    """Two passes over each image, rounded to whole levels after each, and a table of levels.

    With pillow's weights the levels are bitwise equal to pillow's (src/libImaging/Resample.c). What
    is cropped has no taps, and padding has weights of 0, which give black.

    Two launches of a Triton kernel on CUDA, whatever the images' sizes; elsewhere PyTorch's
    operators.

    Args:
        pixels: (n,) uint8, the images, one after another.
        taps: (t,) int32, the tables of all passes.
        passes: (B, 2, 10) int64: the fields of each image's two `Pass`es. The first reads `pixels`
            and writes `between`, the second reads `between` and writes `out`. Their numbers are
            not checked: they must stay inside the tensors.
        host_passes: the same numbers, on the CPU.
        levels: (3, 256) float32: what each level becomes in each channel.
        between: (m,) uint8, overwritten.
        out: (B, 3, S, S) float32, contiguous; overwritten.

    Raises:
        InputError: arguments do not fit together.
    """
    _check(pixels, taps, passes, host_passes, levels, between, out)
    if dispatch.takes_kernel(NAME, pixels, None):
        launch(pixels, taps, passes, host_passes, levels, between, out)
        dispatch.record(NAME, "triton")
    else:
        reference(pixels, taps, host_passes, levels, between, out)
        dispatch.record(NAME, "torch")


def reference(
    pixels: Tensor,
    taps: Tensor,
    host_passes: Tensor,
    levels: Tensor,
    between: Tensor,
    out: Tensor,
) -> None:
    """The same with PyTorch's operators, image by image."""
    for image, (first, second) in enumerate(host_passes.tolist()):
        resized = _pass(pixels, taps, Pass(*first)).to(torch.uint8).flatten()
        start = Pass(*first).out
        between[start : start + resized.numel()] = resized
        level = _pass(between, taps, Pass(*second))  # (3, S, S)
        out[image] = levels.gather(1, level.flatten(1).long()).view_as(level)


def _pass(pixels: Tensor, taps: Tensor, one: Pass) -> Tensor:
    """Levels, int32 (3, height, width)."""
    channel, row, column = (
        torch.arange(size, device=pixels.device) for size in (3, one.height, one.width)
    )
    size, step = (one.height, one.row) if one.vertical else (one.width, one.column)
    table = taps[one.taps :][: (1 + one.weights) * size].view(1 + one.weights, 1, size)
    if one.vertical:
        table, lines = table.mT, column * one.column
    else:
        lines = row[:, None] * one.row
    start = one.source + channel[:, None, None] * one.channel + lines + table[0] * step
    total = torch.full_like(start, 1 << (BITS - 1), dtype=torch.int32)
    for tap in range(one.weights):
        total += pixels[start + tap * step].int() * table[1 + tap]
    return (total >> BITS).clamp_(0, 255)


def _check(
    pixels: Tensor,
    taps: Tensor,
    passes: Tensor,
    host_passes: Tensor,
    levels: Tensor,
    between: Tensor,
    out: Tensor,
) -> None:
    batch, size = (out.shape[0], out.shape[-1]) if out.ndim == 4 else (0, 0)
    plan, here = (batch, 2, FIELDS), pixels.device
    for name, tensor, shape, dtype, device in (
        ("pixels", pixels, (pixels.numel(),), torch.uint8, here),
        ("taps", taps, (taps.numel(),), torch.int32, here),
        ("passes", passes, plan, torch.int64, here),
        ("host_passes", host_passes, plan, torch.int64, CPU),
        ("levels", levels, (3, 256), torch.float32, here),
        ("between", between, (between.numel(),), torch.uint8, here),
        ("out", out, (batch, 3, size, size), torch.float32, here),
    ):
        # Nothing is formatted for tensors that fit: this runs for every batch.
        if (tensor.shape, tensor.dtype, tensor.device) != (shape, dtype, device):
            problem = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise InputError(name, problem, f"pass {shape} {dtype} on {device}")
        if not tensor.is_contiguous():
            raise InputError(name, "is not contiguous", "pass a contiguous tensor")


def launch(
    pixels: Tensor,
    taps: Tensor,
    passes: Tensor,
    host_passes: Tensor,
    levels: Tensor,
    between: Tensor,
    out: Tensor,
) -> None:
    """Launch the kernel twice; see `resize`."""
    if not len(out):
        return
    height, width = Pass._fields.index("height"), Pass._fields.index("width")
    pixels_of = (host_passes[..., height] * host_passes[..., width]).amax(0).tolist()
    for last, source, target in ((False, pixels, between), (True, between, out)):
        grid = triton.cdiv(pixels_of[last], BLOCK), 3 * len(out)
        kernel[grid](
            source, taps, passes, levels, target, **specialise(last), num_warps=WARPS, num_stages=1
        )


def specialise(last: bool) -> dict[str, object]:
    """The kernel's compile-time constants for the first or the last pass."""
    return {"LAST": last, "FIELDS": FIELDS, "BITS": BITS, "BLOCK": BLOCK}


@triton.jit
def kernel(
    pixels, taps, passes, levels, out,
    LAST: tl.constexpr, FIELDS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per block of an image's channel; those beyond a smaller image do nothing."""
    image, channel = tl.program_id(1) // 3, tl.program_id(1) % 3
    fields = passes + (2 * image + LAST) * FIELDS
    row_stride, column_stride = tl.load(fields + 2).to(tl.int32), tl.load(fields + 3).to(tl.int32)
    height, width = tl.load(fields + 4).to(tl.int32), tl.load(fields + 5).to(tl.int32)
    vertical = tl.load(fields + 7) != 0
    weights = tl.load(fields + 9).to(tl.int32)
    begin = tl.program_id(0) * BLOCK
    if begin >= height * width:
        return
    pixel = begin + tl.arange(0, BLOCK)
    inside = pixel < height * width
    pixel = tl.minimum(pixel, height * width - 1)  # the last one is summed again, and not stored
    y, x = pixel // width, pixel % width
    position = tl.where(vertical, y, x)
    size, step = tl.where(vertical, height, width), tl.where(vertical, row_stride, column_stride)

    pixels += tl.load(fields) + channel * tl.load(fields + 1)
    taps += tl.load(fields + 8)
    place = tl.where(vertical, x * column_stride, y * row_stride) + tl.load(taps + position) * step
    total = tl.full((BLOCK,), 1 << (BITS - 1), tl.int32)
    for _ in range(weights):
        position += size
        total += tl.load(pixels + place).to(tl.int32) * tl.load(taps + position)
        place += step
    level = tl.minimum(tl.maximum(total >> BITS, 0), 255)

    out += tl.load(fields + 6) + channel.to(tl.int64) * height * width
    if LAST:
        tl.store(out + pixel, tl.load(levels + channel * 256 + level), mask=inside)
    else:
        tl.store(out + pixel, level.to(tl.uint8), mask=inside)
