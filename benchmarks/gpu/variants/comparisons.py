"""The built-in attention kernels, their variants and PyTorch's, compared at the goals' shapes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from medfocus.benchmarks.baselines.attention import (
    CHECKED_IMAGES,
    Comparison,
    KernelImplementation,
    masked,
    masked_inputs,
)
from medfocus.benchmarks.baselines.encoder_blocks import window, window_inputs
from medfocus.benchmarks.bench.kernels.shapes import WINDOWS
from medfocus.benchmarks.gpu.variants.candidates import (
    SHAPES,
    Variant,
    variants,
    window_variants,
)
from medfocus.kernels.tile import Tile

# The module: the package's attribute of this name is the function.
windowed = import_module("medfocus.kernels.window_attention")

BASELINES = ("SDPA efficient", "SDPA cuDNN")
VARIANT = "variant: "  # begins their names
Launch = Callable[[Tensor], None]  # writes its argument
Build = Callable[[], Comparison]


def comparisons(images: int | None = None) -> list[Build]:
    """All, on a GPU in bfloat16; with `images`, only with that many."""

    def of(function: Callable[..., Comparison], many: int, *sizes: int | str | bool) -> Build:
        return partial(function, images or many, *sizes, torch.bfloat16, "cuda")

    dense = [of(attention, *sizes) for sizes in SHAPES]
    return dense + [of(windows, many, where, *sizes) for where, many, *sizes in WINDOWS]


def attention(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """masked_attention, its variants, and `BASELINES`."""
    base = masked(batch, heads, tokens, width, dtype, device)
    qkv, bias = masked_inputs(batch, heads, tokens, width, dtype, device)
    shape = (batch, tokens, heads * width)

    def launcher(variant: Variant) -> Launch:
        return lambda out: variant.launch(qkv, bias, out, heads)

    launches = {name: launcher(variant) for name, variant in variants(tokens).items()}
    kept = [other for other in base.implementations if other.name in BASELINES]
    return _with_variants(base, launches, lambda: qkv.new_empty(shape), kept)


def windows(
    batch: int,
    where: str,
    side: int,
    channels: int,
    heads: int,
    size: int,
    pool: bool,
    dtype: torch.dtype,
    device: str,
) -> Comparison:
    """window_attention, with its table's tile and with others, and SAM2's own."""
    base = window(where, batch, side, channels, heads, size, pool, dtype, device)
    qkv, padding = window_inputs(batch, side, channels, dtype, device)
    used = padding if side % size else None
    outputs = side // 2 if pool else side

    def launcher(tile: Tile) -> Launch:
        return lambda out: windowed.launch(qkv, used, out, heads, size, pool, tile)

    launches = {name: launcher(tile) for name, tile in window_variants().items()}

    def exact() -> Tensor:  # SAM2's package is not needed for this
        first, bias = qkv[:CHECKED_IMAGES].double(), padding.double()
        answer: Tensor = windowed.reference(first, bias, heads, size, pool)
        return answer

    return _with_variants(
        replace(base, exact=exact),
        launches,
        lambda: qkv.new_empty(batch, outputs, outputs, channels),
        base.implementations[1:],
    )


def _with_variants(
    base: Comparison,
    launches: dict[str, Launch],
    empty: Callable[[], Tensor],
    others: list[KernelImplementation],
) -> Comparison:
    """Ours, what `launches` write into an empty output, and `others`."""
    ours = base.implementations[0]

    def build(launch: Launch) -> Callable[[], Tensor]:
        out = empty()

        def run() -> Tensor:
            launch(out)
            return out

        return run

    built = [
        KernelImplementation(
            VARIANT + name, ours.layout, partial(build, launch), path=lambda: "triton"
        )
        for name, launch in launches.items()
    ]
    return replace(base, implementations=[ours, *built, *others])
