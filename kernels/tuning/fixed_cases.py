"""The launches of the kernels that have no table of tiles."""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from medfocus.kernels.tile import Tile
from medfocus.kernels.tuning.case import Case, Launch, precise
from medfocus.kernels.tuning.cases import HEADS, IMAGES
from medfocus.kernels.tuning.roofline import PRODUCTS_OF_FLOAT32, LaunchCost

# The modules: the attributes of the package with these names are the functions.
cls, focus = (import_module(f"medfocus.kernels.{name}") for name in ("cls_attention", "focus_bias"))

LAYERS, MASK = 12, 256  # for the focus bias: CLIP's layers, side of the mask


def cls_row() -> list[Case]:
    """cls_attention with one bias per key."""
    return [_cls(tokens, width) for tokens, width in ((197, 64), (577, 64), (257, 80))]


def _cls(tokens: int, width: int) -> Case:
    dtype, tile = torch.bfloat16, cls.tile_for(width)

    def prepare(device: str, images: int) -> Launch:
        q = torch.randn(images, HEADS * width, device=device).to(dtype)
        kv = torch.randn(images, tokens, 2 * HEADS * width, device=device).to(dtype)
        bias = -torch.rand(images, tokens, device=device)
        out = torch.empty_like(q)
        scale = width**-0.5

        def reference(exact: bool) -> Tensor:
            tensors = precise(exact, q[-1:], kv[-1:], bias[-1:])
            attended: Tensor = cls.reference(*tensors, HEADS, scale)
            return attended

        return Launch(
            lambda: cls.launch(q, kv, bias, out, HEADS, scale, tile), lambda: out[-1:], reference
        )

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

    def prepare(device: str, images: int) -> Launch:
        logits = torch.randn(images, MASK, MASK, device=device)
        rows = torch.full((images, grid, MASK), 1 / MASK, device=device)
        strength = torch.ones(LAYERS, device=device)
        out = focus.FocusBias(
            torch.empty(LAYERS, images, 1 + grid**2, device=device),
            torch.empty(images, grid, grid, device=device),
            torch.empty(images, dtype=torch.bool, device=device),
        )

        def reference(exact: bool) -> Tensor:
            tensors = precise(exact, logits[-1:], rows[-1:], rows[-1:], strength)
            patch_focus: Tensor = focus.reference(*tensors, 1e-3, 0.5).patch_focus
            return patch_focus

        return Launch(
            lambda: focus.launch(logits, rows, rows, strength, 1e-3, 0.5, out),
            lambda: out.patch_focus[-1:],
            reference,
        )

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


FIXED_CASES: dict[str, Callable[[], list[Case]]] = {
    "cls_attention": cls_row,
    "focus_bias": focus_grids,
}
