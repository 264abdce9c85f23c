"""The variants that are compared, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from medfocus.benchmarks.gpu.variants import streamed, whole_heads
from medfocus.benchmarks.gpu.variants.whole_heads import HeadTile
from medfocus.kernels.compiler import Compiled, compile_for
from medfocus.kernels.tile import Tile
from medfocus.kernels.tuning.case import argument_types

# The module: the package's attribute of this name is the function.
masked = import_module("medfocus.kernels.masked_attention")

# Images, H, N, D: those of the goals.
SHAPES = ((256, 12, 197, 64), (256, 16, 257, 64), (64, 16, 577, 64))
# `masked_attention` with other tiles than the table's: sides, warps, stages.
TILES = ((64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2))
# By the number of tokens: rows, largest piece, one pass, programs, warps.
HEAD_TILES = {
    197: (
        (64, 128, True, 1, 4),
        (64, 128, True, 4, 4),
        (64, 64, False, 1, 4),
        (128, 64, False, 2, 8),
    ),
    257: ((64, 128, True, 1, 4), (64, 128, True, 5, 4), (64, 64, False, 1, 4)),
}
# Sides, warps, stages.
STREAMED = ((128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 2))
# `window_attention` with other tiles than the table's; small windows need few warps.
WINDOW_TILES = (
    *((64, 64, 4, 1), (64, 64, 4, 2), (64, 32, 4, 2), (128, 32, 8, 2), (128, 64, 8, 2)),
    *((32, 32, 2, 1), (16, 16, 2, 1), (16, 16, 1, 1), (16, 64, 4, 1)),
)


@dataclass(frozen=True)
class Variant:
    """One kernel with one tile.

    Attributes:
        launch: takes qkv, bias, the tensor that is written, and the number of heads.
        compiled: takes N, H, D and a compute capability.
    """

    launch: Callable[[Tensor, Tensor, Tensor, int], None]
    compiled: Callable[[int, int, int, int], Compiled]


def variants(tokens: int) -> dict[str, Variant]:
    """Those for N tokens, by their names."""
    found = {_name("current", *sizes): _current(Tile(*sizes)) for sizes in TILES}
    for head in HEAD_TILES.get(tokens, ()):
        found[_name("whole heads", *head)] = _whole_heads(HeadTile(*head))
    return found | {_name("streamed", *sizes): _streamed(Tile(*sizes)) for sizes in STREAMED}


def window_variants() -> dict[str, Tile]:
    """Tiles of window_attention, by their names."""
    return {_name("current", *sizes): Tile(*sizes) for sizes in WINDOW_TILES}


def _name(kernel: str, *sizes: int) -> str:
    return f"{kernel} {'-'.join(str(int(size)) for size in sizes)}"


def _current(tile: Tile) -> Variant:
    def launch(qkv: Tensor, bias: Tensor, out: Tensor, heads: int) -> None:
        scale = (out.shape[-1] // heads) ** -0.5
        masked.launch(qkv, bias, out, heads, scale, tile)

    def compiled(tokens: int, heads: int, width: int, architecture: int) -> Compiled:
        del heads  # an argument of the kernel
        constants = masked.specialise(tokens, width, torch.bfloat16, tile)
        types = argument_types(masked.kernel, torch.bfloat16)
        return compile_for(architecture, masked.kernel, types, constants, tile.warps, tile.stages)

    return Variant(launch, compiled)


def _whole_heads(tile: HeadTile) -> Variant:
    return Variant(
        lambda qkv, bias, out, heads: whole_heads.launch(qkv, bias, out, heads, tile),
        partial(whole_heads.compiled, tile),
    )


def _streamed(tile: Tile) -> Variant:
    return Variant(
        lambda qkv, bias, out, heads: streamed.launch(qkv, bias, out, heads, tile),
        partial(streamed.compiled, tile),
    )
