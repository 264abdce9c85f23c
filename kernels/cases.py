"""The launches of every kernel that the report compiles, and that tuning compiles and times."""

from collections.abc import Callable
from importlib import import_module

import torch

from medfocus.kernels.case import DTYPES, Case, attention_work
from medfocus.kernels.tile import Key, Tile

# A module; the package's attribute of this name is the function.
masked = import_module("medfocus.kernels.masked_attention")

# The N that stands for each band: ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, SAM2's 32×32 grid.
TOKENS = (50, 197, 257, 577, 1024)
IMAGES = 256  # B of CLIP's work
HEADS = 12


def dense(key: Key, tile: Tile) -> list[Case]:
    """masked_attention, a bias a key."""
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
            work=attention_work(IMAGES * HEADS, tokens, tokens, width, dtype, tile),
            prepare=prepare,
        )
    ]


# From a table entry to its launches; the first one's time decides.
CASES: dict[str, Callable[[Key, Tile], list[Case]]] = {"masked_attention": dense}
# Kernels whose tiles are their own, to their launches.
FIXED_CASES: dict[str, Callable[[], list[Case]]] = {}
