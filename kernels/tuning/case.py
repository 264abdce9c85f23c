"""A launch that represents a table entry: how it is compiled, what it costs, how it is run."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from medfocus.kernels.attention_tiles import cut, tail
from medfocus.kernels.compiler import TRITON_NAMES, Compiled, compile_for
from medfocus.kernels.tile import Tile
from medfocus.kernels.tuning.roofline import PRODUCTS_OF_FLOAT32, LaunchCost

DTYPES = {16: torch.bfloat16, 32: torch.float32}  # the dtype that represents a table's `bits`


@dataclass(frozen=True)
class Case:
    """One launch.

    Attributes:
        kernel: the function's name.
        shape: the sizes, by their letters.
        dtype: of the tokens.
        function: the `triton.jit` function.
        constants: its compile-time constants.
        tile: of the launch.
        cost: of the launch.
        prepare: takes a device and a number of images, and returns a function that launches once.
    """

    kernel: str
    shape: dict[str, int]
    dtype: torch.dtype
    function: Any
    constants: dict[str, object]
    tile: Tile
    cost: LaunchCost
    prepare: Callable[[str, int], Callable[[], None]]

    @property
    def types(self) -> dict[str, str]:
        """Triton's types of the kernel's arguments, by their names."""
        return argument_types(self.function, self.dtype)

    def compile(self, architecture: int) -> Compiled:
        """Compile the launch for a compute capability, 90 for 9.0."""
        tile = self.tile
        return compile_for(
            architecture, self.function, self.types, self.constants, tile.warps, tile.stages
        )


def argument_types(function: Any, dtype: torch.dtype) -> dict[str, str]:
    """Triton's types of a kernel's arguments, by their names."""
    tokens = ("qkv", "q", "kv", "padding", "out", "mask_logits")
    types = dict.fromkeys(tokens, f"*{TRITON_NAMES[dtype]}")
    types |= dict.fromkeys(
        ("key_bias", "rows", "cols", "strength", "patch_focus"), f"*{TRITON_NAMES[torch.float32]}"
    )
    types |= {"cu_seqlens": "*i32", "focused": "*i1"}
    types |= {"pixels": "*u8", "taps": "*i32", "passes": "*i64", "levels": "*fp32"}
    types |= dict.fromkeys(("scale", "floor", "visible"), "fp32")
    return {name: types.get(name, "i32") for name in function.arg_names}


def attention_cost(
    heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, tile: Tile
) -> LaunchCost:
    """The cost of attention in `heads` independent heads (images × heads).

    Two matrix products per head, 2·queries·keys·D FLOP each; a query row is read once, a head's
    keys and values once per tile of queries.
    """
    rows = queries // tile.block_m * tile.block_m + tail(queries, tile.block_m, dtype)
    computed_keys = keys // tile.block_n * tile.block_n + tail(keys, tile.block_n, dtype)
    tiles = math.ceil(queries / tile.block_m)
    row_bytes = heads * width * dtype.itemsize
    once = 2 * queries * row_bytes  # queries read, outputs written
    return LaunchCost(
        flop=4.0 * heads * queries * keys * width,
        computed_flop=4.0 * heads * rows * computed_keys * sum(cut(width)),
        logits=float(heads * rows * computed_keys),
        bytes=float(once + 2 * keys * row_bytes),
        l2_bytes=float(once + 2 * keys * row_bytes * tiles),
        programs=heads * tiles,
        matrix_slowdown=PRODUCTS_OF_FLOAT32 if dtype == torch.float32 else 1,
    )
