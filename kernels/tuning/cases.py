"""The launches of every kernel that the report compiles and that tuning compiles and times."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import torch

from medfocus.kernels.attention_tiles import cut
from medfocus.kernels.tile import Tile, TileKey
from medfocus.kernels.tuning.case import DTYPES, Case, attention_cost
from medfocus.kernels.tuning.roofline import PRODUCTS_OF_FLOAT32, LaunchCost

# The modules: the attributes of the package with these names are the functions.
masked, varlen, cls, focus, windowed, resizing = (
    import_module(f"medfocus.kernels.{name}")
    for name in (
        *("masked_attention", "masked_attention_varlen", "cls_attention", "focus_bias"),
        *("window_attention", "resize"),
    )
)

# The N that represents each band: ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, SAM2's 32×32 grid.
TOKENS = (50, 197, 257, 577, 1024)
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
# Sides of an image and of SAM2's input, source pixels per pixel with a bilinear filter.
IMAGE, FRAME, PIXELS = 512, 1024, 2
LAYERS, MASK = 12, 256  # for the focus bias: CLIP's layers, side of the mask


def dense(key: TileKey, tile: Tile) -> list[Case]:
    """masked_attention with one bias per key."""
    tokens, width, dtype = TOKENS[key.band], key.columns, DTYPES[key.bits]

    def prepare(device: str, images: int) -> Callable[[], None]:
        qkv = torch.randn(images, tokens, 3 * HEADS * width, device=device).to(dtype)
        bias = -torch.rand(images, tokens, device=device)
        out = torch.empty(images, tokens, HEADS * width, device=device, dtype=dtype)
        return lambda: masked.launch(qkv, bias, out, HEADS, width**-0.5, tile)

    return [
        Case(
            kernel=key.kernel,
            shape={"B": IMAGES, "H": HEADS, "N": tokens, "D": width},
            dtype=dtype,
            function=masked.kernel,
            constants=masked.specialise(tokens, width, dtype, tile),
            tile=tile,
            cost=attention_cost(IMAGES * HEADS, tokens, tokens, width, dtype, tile),
            prepare=prepare,
        )
    ]


def ragged(key: TileKey, tile: Tile) -> list[Case]:
    """masked_attention_varlen without a bias, all sequences of the same length."""
    tokens, width, dtype = TOKENS[key.band], key.columns, DTYPES[key.bits]

    def prepare(device: str, images: int) -> Callable[[], None]:
        qkv = torch.randn(images * tokens, 3 * HEADS * width, device=device).to(dtype)
        ends = torch.arange(images + 1, device=device, dtype=torch.int32) * tokens
        out = torch.empty(images * tokens, HEADS * width, device=device, dtype=dtype)
        return lambda: varlen.launch(qkv, None, ends, tokens, out, HEADS, width**-0.5, tile)

    rounded = -(-tokens // tile.block_m) * tile.block_m, -(-tokens // tile.block_n) * tile.block_n
    cost = attention_cost(IMAGES * HEADS, tokens, tokens, width, dtype, tile)
    return [
        Case(
            kernel=key.kernel,
            shape={"B": IMAGES, "H": HEADS, "N": tokens, "D": width},
            dtype=dtype,
            function=varlen.kernel,
            constants={"key_bias": None, **varlen.specialise(width, dtype, tile)},
            tile=tile,
            cost=cost.computing(IMAGES * HEADS * rounded[0] * rounded[1], sum(cut(width))),
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

    def prepare(device: str, images: int) -> Callable[[], None]:
        qkv = torch.randn(images, side, side, 3 * heads * width, device=device).to(dtype)
        padding = torch.randn(3 * heads * width, device=device).to(dtype)
        half = side // (2 if pool else 1)
        out = torch.empty(images, half, half, heads * width, device=device, dtype=dtype)
        used = padding if constants["PADDED"] else None
        return lambda: windowed.launch(qkv, used, out, heads, window, pool, tile)

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
        cost=cost.computing(count // group * computed, sum(cut(width))),
        prepare=prepare,
    )


def _keys(constants: dict[str, int], keys: int) -> int:
    """The number of keys that one program computes, tiles rounded up."""
    block, last = constants["BLOCK_N"], constants["TAIL_N"]
    full = 0 if constants["GROUP"] > 1 else keys // block * block
    return full + (-(-(keys - full) // last) * last if last else 0)


def cls_row() -> list[Case]:
    """cls_attention with one bias per key."""
    return [_cls(tokens, width) for tokens, width in ((197, 64), (577, 64), (257, 80))]


def _cls(tokens: int, width: int) -> Case:
    dtype, tile = torch.bfloat16, cls.tile_for(width)

    def prepare(device: str, images: int) -> Callable[[], None]:
        q = torch.randn(images, HEADS * width, device=device).to(dtype)
        kv = torch.randn(images, tokens, 2 * HEADS * width, device=device).to(dtype)
        bias = -torch.rand(images, tokens, device=device)
        out = torch.empty_like(q)
        return lambda: cls.launch(q, kv, bias, out, HEADS, width**-0.5, tile)

    moved = 2.0 * IMAGES * HEADS * (tokens + 1) * width * dtype.itemsize
    flop = 4.0 * IMAGES * HEADS * tokens * width
    return Case(
        kernel="cls_attention",
        shape={"B": IMAGES, "H": HEADS, "N": tokens, "D": width},
        dtype=dtype,
        function=cls.kernel,
        constants=cls.specialise(width, tile),
        tile=tile,
        cost=LaunchCost(flop, flop, IMAGES * HEADS * tokens, moved, moved, IMAGES * HEADS),
        prepare=prepare,
    )


def focus_grids() -> list[Case]:
    """focus_bias for CLIP's patch grids."""
    return [_focus(grid) for grid in (14, 24, 48)]


def _focus(grid: int) -> Case:
    dtype, constants = torch.float32, focus.specialise(grid)
    side = constants["SIDE"]

    def prepare(device: str, images: int) -> Callable[[], None]:
        logits = torch.randn(images, MASK, MASK, device=device)
        rows = torch.full((images, grid, MASK), 1 / MASK, device=device)
        strength = torch.ones(LAYERS, device=device)
        out = focus.FocusBias(
            torch.empty(LAYERS, images, 1 + grid**2, device=device),
            torch.empty(images, grid, grid, device=device),
            torch.empty(images, dtype=torch.bool, device=device),
        )
        return lambda: focus.launch(logits, rows, rows, strength, 1e-3, 0.5, out)

    moved = 4.0 * IMAGES * (MASK**2 + 2 * grid * MASK + (LAYERS + 1) * grid**2)
    return Case(
        kernel="focus_bias",
        shape={"B": IMAGES, "h": MASK, "g": grid, "L": LAYERS},
        dtype=dtype,
        function=focus.kernel,
        constants=constants,
        tile=Tile(constants["BLOCK_H"], constants["BLOCK_W"], focus.WARPS, focus.STAGES),
        cost=LaunchCost(
            flop=2.0 * IMAGES * grid * MASK * (MASK + grid),
            computed_flop=2.0 * IMAGES * side * MASK * (MASK + side),
            logits=IMAGES * MASK**2,
            bytes=moved,
            l2_bytes=moved,
            programs=IMAGES,
            matrix_slowdown=PRODUCTS_OF_FLOAT32,
        ),
        prepare=prepare,
    )


def both_passes() -> list[Case]:
    """resize, an image for SAM2: its pass along rows, and the one along columns."""
    return [_pass(last) for last in (False, True)]


def _pass(last: bool) -> Case:
    read, written = (IMAGE * FRAME, 4 * FRAME**2) if last else (IMAGE**2, IMAGE * FRAME)
    dtype = torch.float32 if last else torch.uint8

    def prepare(device: str, images: int) -> Callable[[], None]:
        table = (1 + PIXELS) * FRAME  # of zeros: every source pixel is the first one
        first = resizing.Pass(0, 1, 3 * IMAGE, 3, IMAGE, FRAME, 0, 0, 0, PIXELS)
        second = resizing.Pass(0, IMAGE * FRAME, FRAME, 1, FRAME, FRAME, 0, 1, 0, PIXELS)
        passes = torch.tensor([[first, second]] * images)
        pixels = torch.zeros(3 * IMAGE**2, dtype=torch.uint8, device=device)
        taps = torch.zeros(table, dtype=torch.int32, device=device)
        levels = torch.zeros(3, 256, device=device)
        between = torch.empty(3 * IMAGE * FRAME, dtype=torch.uint8, device=device)
        out = torch.empty(images, 3, FRAME, FRAME, device=device)
        device_passes = passes.to(device)
        return lambda: resizing.launch(pixels, taps, device_passes, passes, levels, between, out)

    moved = 3.0 * SEGMENTED * (read + written)
    programs = 3 * SEGMENTED * (FRAME if last else IMAGE) * FRAME // resizing.BLOCK
    return Case(
        kernel="resize",
        shape={"B": SEGMENTED, "H": IMAGE, "S": FRAME, "pass": 1 + last},
        dtype=dtype,
        function=resizing.kernel,
        constants=resizing.specialise(last),
        tile=Tile(1, resizing.BLOCK, resizing.WARPS, 1),
        cost=LaunchCost(0.0, 0.0, 0.0, moved, moved, programs),
        prepare=prepare,
    )


# The launches of a table entry; tuning ranks and times the first.
CASES: dict[str, Callable[[TileKey, Tile], list[Case]]] = {
    "masked_attention": dense,
    "masked_attention_varlen": ragged,
    "window_attention": windows,
}
# The launches of the kernels that have no table.
FIXED_CASES: dict[str, Callable[[], list[Case]]] = {
    "cls_attention": cls_row,
    "focus_bias": focus_grids,
    "resize": both_passes,
}
