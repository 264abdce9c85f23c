"""The launches of the kernels that have no table of tiles."""

from collections.abc import Callable
from importlib import import_module

import torch

from medfocus.kernels.tile import Tile
from medfocus.kernels.tuning.case import Case
from medfocus.kernels.tuning.cases import HEADS, IMAGES, SEGMENTED
from medfocus.kernels.tuning.roofline import PRODUCTS_OF_FLOAT32, LaunchCost

# The modules: the attributes of the package with these names are the functions.
cls, focus, resizing = (
    import_module(f"medfocus.kernels.{name}") for name in ("cls_attention", "focus_bias", "resize")
)

IMAGE, FRAME = 512, 1024  # for resize: sides of an image and of SAM2's input
LAYERS, MASK = 12, 256  # for the focus bias: CLIP's layers, side of the mask


def cls_row() -> list[Case]:
    """cls_attention with one bias per key."""
    return [_cls(tokens, width) for tokens, width in ((197, 64), (577, 64), (257, 80))]


def _cls(tokens: int, width: int) -> Case:
    dtype, tile = torch.bfloat16, cls.tile_for(width)

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
    )


def focus_grids() -> list[Case]:
    """focus_bias for CLIP's patch grids."""
    return [_focus(grid) for grid in (14, 24, 48)]


def _focus(grid: int) -> Case:
    dtype, constants = torch.float32, focus.specialise(grid)
    side = constants["SIDE"]

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
    )


def both_passes() -> list[Case]:
    """resize, an image for SAM2: its pass along rows, and the one along columns."""
    return [_pass(last) for last in (False, True)]


def _pass(last: bool) -> Case:
    read, written = (IMAGE * FRAME, 4 * FRAME**2) if last else (IMAGE**2, IMAGE * FRAME)
    moved = 3.0 * SEGMENTED * (read + written)
    programs = 3 * SEGMENTED * (FRAME if last else IMAGE) * FRAME // resizing.BLOCK
    return Case(
        kernel="resize",
        shape={"B": SEGMENTED, "H": IMAGE, "S": FRAME, "pass": 1 + last},
        dtype=torch.float32 if last else torch.uint8,
        function=resizing.kernel,
        constants=resizing.specialise(last),
        tile=Tile(1, resizing.BLOCK, resizing.WARPS, 1),
        cost=LaunchCost(0.0, 0.0, 0.0, moved, moved, programs),
    )


FIXED_CASES: dict[str, Callable[[], list[Case]]] = {
    "cls_attention": cls_row,
    "focus_bias": focus_grids,
    "resize": both_passes,
}
