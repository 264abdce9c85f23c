"""The launches that represent a table entry: the report compiles them, tuning times them."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from medfocus.kernels.attention_tiles import cut
from medfocus.kernels.tile import Tile, TileKey
from medfocus.kernels.tuning.case import DTYPES, Case, Launch, attention_cost, precise

# The modules: the attributes of the package with these names are the functions.
masked, varlen, windowed = (
    import_module(f"medfocus.kernels.{name}")
    for name in ("masked_attention", "masked_attention_varlen", "window_attention")
)

# The N that represents each band: ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, and the global
# attention of SAM2 at 1024², which has no bias.
TOKENS = (50, 197, 257, 577, 4096)
GLOBAL = 4
IMAGES = 256  # CLIP's batch size
HEADS = 12
SEGMENTED = 8  # SAM2's batch size
# SAM2's windows at 1024², by band: (side of the grid in positions, heads, window, pool). No
# published SAM2 has windows in the last two bands.
WINDOWS = (
    [
        (256, 1, 8, False),
        (128, 2, 4, False),
        (256, 2, 8, True),
        (128, 4, 4, True),
        (32, 8, 7, False),
    ],
    [(64, 4, 14, False), (64, 8, 14, True)],
    [(64, 4, 16, False), (64, 8, 16, True)],
    [(64, 4, 24, False)],
    [(64, 4, 32, False)],
)
# SAM2's head widths D, by the table's columns.
SAM2_WIDTHS = {32: [32], 64: [56], 96: [96, 72], 128: [128]}


def dense(key: TileKey, tile: Tile) -> list[Case]:
    """masked_attention with one bias per key; without a bias for SAM2's global attention."""
    tokens, width, dtype = TOKENS[key.band], key.columns, DTYPES[key.bits]
    batch, constants = images_of(key.band), masked.specialise(tokens, width, dtype, tile)
    if key.band == GLOBAL:
        constants = {"key_bias": None, **constants}

    def prepare(device: str, images: int) -> Launch:
        qkv = torch.randn(images, tokens, 3 * HEADS * width, device=device).to(dtype)
        bias = None if key.band == GLOBAL else -torch.rand(images, tokens, device=device)
        out = torch.empty(images, tokens, HEADS * width, device=device, dtype=dtype)
        scale = width**-0.5

        def reference(exact: bool) -> Tensor:
            last = None if bias is None else bias[-1:]
            attended: Tensor = masked.reference(*precise(exact, qkv[-1:], last), HEADS, scale)
            return attended

        return Launch(
            lambda: masked.launch(qkv, bias, out, HEADS, scale, tile),
            lambda: out[-1:],
            reference,
        )

    return [
        Case(
            kernel=key.kernel,
            shape={"B": batch, "H": HEADS, "N": tokens, "D": width},
            dtype=dtype,
            function=masked.kernel,
            constants=constants,
            tile=tile,
            cost=attention_cost(batch * HEADS, tokens, tokens, width, dtype, tile),
            prepare=prepare,
        )
    ]


def images_of(band: int) -> int:
    """The batch of a band's launches: CLIP's, or SAM2's."""
    return SEGMENTED if band == GLOBAL else IMAGES


def ragged(key: TileKey, tile: Tile) -> list[Case]:
    """masked_attention_varlen without a bias, all sequences of the same length."""
    tokens, width, dtype = TOKENS[key.band], key.columns, DTYPES[key.bits]

    def prepare(device: str, images: int) -> Launch:
        qkv = torch.randn(images * tokens, 3 * HEADS * width, device=device).to(dtype)
        ends = torch.arange(images + 1, device=device, dtype=torch.int32) * tokens
        out = torch.empty(images * tokens, HEADS * width, device=device, dtype=dtype)
        scale = width**-0.5

        def reference(exact: bool) -> Tensor:
            (last,) = precise(exact, qkv[-tokens:])
            attended: Tensor = varlen.reference(last, None, ends[:2], tokens, HEADS, scale)
            return attended

        return Launch(
            lambda: varlen.launch(qkv, None, ends, tokens, out, HEADS, scale, tile),
            lambda: out[-tokens:],
            reference,
        )

    batch = images_of(key.band)
    rounded = -(-tokens // tile.block_m) * tile.block_m, -(-tokens // tile.block_n) * tile.block_n
    cost = attention_cost(batch * HEADS, tokens, tokens, width, dtype, tile)
    return [
        Case(
            kernel=key.kernel,
            shape={"B": batch, "H": HEADS, "N": tokens, "D": width},
            dtype=dtype,
            function=varlen.kernel,
            constants={"key_bias": None, **varlen.specialise(width, dtype, tile)},
            tile=tile,
            cost=cost.computing(batch * HEADS * rounded[0] * rounded[1], sum(cut(width, dtype))),
            prepare=prepare,
        )
    ]


def windows(key: TileKey, tile: Tile) -> list[Case]:
    """window_attention on SAM2's grids."""
    return [
        _window(key, tile, width, *window)
        for width in SAM2_WIDTHS[key.columns]
        for window in WINDOWS[key.band]
    ]


def _window(
    key: TileKey, tile: Tile, width: int, side: int, heads: int, window: int, pool: bool
) -> Case:
    dtype = DTYPES[key.bits]
    constants = windowed.specialise((side, side), width, dtype, window, pool, tile)

    def prepare(device: str, images: int) -> Launch:
        qkv = torch.randn(images, side, side, 3 * heads * width, device=device).to(dtype)
        padding = torch.randn(3 * heads * width, device=device).to(dtype)
        half = side // (2 if pool else 1)
        out = torch.empty(images, half, half, heads * width, device=device, dtype=dtype)
        used = padding if constants["PADDED"] else None
        return Launch(
            lambda: windowed.launch(qkv, used, out, heads, window, pool, tile),
            lambda: out[-1:],
            lambda exact: windowed.reference(
                *precise(exact, qkv[-1:], padding), heads, window, pool
            ),
        )

    # Windows cut by the grid are counted as whole ones.
    count = SEGMENTED * heads * (-(-side // window)) ** 2
    keys, queries = window**2, (window // 2) ** 2 if pool else window**2
    group = constants["GROUP"]
    computed = constants["ROW_TILES"] * constants["BLOCK_M"] * _keys(constants, group * keys)
    cost = attention_cost(count, queries, keys, width, dtype, tile)
    unpooled = (keys - queries) * count * width * dtype.itemsize  # read for the pooled queries
    cost = replace(cost, bytes=cost.bytes + unpooled, l2_bytes=cost.l2_bytes + unpooled)
    return Case(
        kernel=key.kernel,
        shape={"B": SEGMENTED, "grid": side, "window": window, "pool": 1 + pool, "H": heads}
        | {"D": width},
        dtype=dtype,
        function=windowed.kernel,
        constants=constants if constants["PADDED"] else {"padding": None, **constants},
        tile=replace(tile, block_m=constants["BLOCK_M"], block_n=constants["BLOCK_N"]),
        cost=cost.computing(count // group * computed, sum(cut(width, dtype))),
        prepare=prepare,
    )


def _keys(constants: dict[str, int], keys: int) -> int:
    """The number of keys that one program computes, tiles rounded up."""
    block, last = constants["BLOCK_N"], constants["TAIL_N"]
    full = 0 if constants["GROUP"] > 1 else keys // block * block
    return full + (-(-(keys - full) // last) * last if last else 0)


# The launches of a table entry; the model ranks by the first.
CASES: dict[str, Callable[[TileKey, Tile], list[Case]]] = {
    "masked_attention": dense,
    "masked_attention_varlen": ragged,
    "window_attention": windows,
}
