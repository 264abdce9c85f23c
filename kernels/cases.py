"""The launches that stand for each table entry: what is compiled, and what work it does."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from medfocus.kernels.attention_tiles import cut, tail
from medfocus.kernels.roofline import PRODUCTS_OF_FLOAT32, Work
from medfocus.kernels.tile import Key, Tile

# The package's attributes of these names are the functions.
masked = importlib.import_module("medfocus.kernels.masked_attention")

TRITON_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
# The N that stands for each band: ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, SAM2's 32×32 grid.
TOKENS = (50, 197, 257, 577, 1024)

IMAGES = 256  # B of the work
HEADS = 12


@dataclass(frozen=True)
class Case:
    """One launch.

    Attributes:
        kernel: the function's name.
        shape: its sizes in words.
        function: the `triton.jit` function.
        types, constants: as `compile_for` takes them.
        tile: of the launch.
        work: of the launch.
        prepare: from a device and a number of images to a function that launches once.
    """

    kernel: str
    shape: dict[str, int]
    dtype: torch.dtype
    function: Any
    types: dict[str, str]
    constants: dict[str, object]
    tile: Tile
    work: Work
    prepare: Callable[[str, int], Callable[[], None]]


def dtype_of(bits: int) -> torch.dtype:
    """The dtype that stands for a width of 16 or 32 bits."""
    return {16: torch.bfloat16, 32: torch.float32}[bits]


def dense(key: Key, tile: Tile) -> list[Case]:
    """masked_attention with 12 heads, a bias a key."""
    tokens, width, dtype = TOKENS[key.band], key.columns, dtype_of(key.bits)

    def prepare(device: str, images: int) -> Callable[[], None]:
        qkv = torch.randn(images, tokens, 3 * HEADS * width, device=device).to(dtype)
        bias = -torch.rand(images, tokens, device=device)
        out = torch.empty(images, tokens, HEADS * width, device=device, dtype=dtype)
        return lambda: masked.launch(qkv, bias, out, HEADS, width**-0.5, tile)

    case = Case(
        kernel=key.kernel,
        shape={"B": IMAGES, "H": HEADS, "N": tokens, "D": width},
        dtype=dtype,
        function=masked.kernel,
        types=argument_types(masked.kernel, dtype),
        constants=masked.specialise(tokens, width, dtype, tile),
        tile=tile,
        work=attention_work(IMAGES * HEADS, tokens, tokens, width, dtype, tile),
        prepare=prepare,
    )
    return [case]


def attention_work(
    heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, tile: Tile
) -> Work:
    """The work of `heads` independent heads in all.

    Two matrix products a head, 2·queries·keys·D FLOP each; a tile's row is read once, a head's
    keys and values once a tile of queries.
    """
    rows = queries // tile.block_m * tile.block_m + tail(queries, tile.block_m)
    computed_keys = keys // tile.block_n * tile.block_n + tail(keys, tile.block_n)
    tiles = math.ceil(queries / tile.block_m)
    row_bytes = heads * width * dtype.itemsize
    once = 2 * queries * row_bytes  # queries in, answers out
    return Work(
        flop=4.0 * heads * queries * keys * width,
        computed_flop=4.0 * heads * rows * computed_keys * sum(cut(width)),
        logits=float(heads * rows * computed_keys),
        bytes=float(once + 2 * keys * row_bytes),
        l2_bytes=float(once + 2 * keys * row_bytes * tiles),
        programs=heads * tiles,
        matrix_slowdown=PRODUCTS_OF_FLOAT32 if dtype == torch.float32 else 1,
    )


def argument_types(function: Any, dtype: torch.dtype) -> dict[str, str]:
    """Triton's types of a kernel's arguments, by their names."""
    types = {"key_bias": "*fp32", "cu_seqlens": "*i32", "scale": "fp32"}
    types |= dict.fromkeys(("qkv", "q", "kv", "padding", "out"), f"*{TRITON_NAMES[dtype]}")
    return {name: types.get(name, "i32") for name in function.arg_names}


# From a table entry to its launches; the first one's time decides.
CASES: dict[str, Callable[[Key, Tile], list[Case]]] = {"masked_attention": dense}
# Kernels with one tile, to their launches.
FIXED_CASES: dict[str, Callable[[], list[Case]]] = {}
