"""The kernels' comparisons, at the shapes of published models."""

from collections.abc import Callable
from functools import partial

import torch

from medfocus.benchmarks.baselines.attention import Comparison, masked
from medfocus.benchmarks.baselines.encoder_blocks import focus, hard, window
from medfocus.benchmarks.baselines.ragged import cls_row, ragged
from medfocus.benchmarks.baselines.resizing import resizing

Build = Callable[[], Comparison]


# Hiera's block, images, side of the grid, channels, heads, window, pooled queries.
WINDOWS = [
    ("Hiera-T stage 1", 8, 256, 96, 1, 8, False),
    ("Hiera-T stage 2", 8, 128, 192, 2, 4, False),
    ("Hiera-T stage 3", 8, 64, 384, 4, 14, False),
    ("Hiera-T stage 4", 8, 32, 768, 8, 7, False),
    ("Hiera-T into stage 2", 8, 256, 192, 2, 8, True),
    ("Hiera-B+ stage 3", 8, 64, 448, 8, 14, False),
    ("Hiera-L stage 3", 8, 64, 576, 8, 16, False),
]


def comparisons() -> dict[str, list[Build]]:
    """By part of `make gpu-check`; those with a goal first, as a time limit cuts off the rest."""
    half, device = torch.bfloat16, "cuda"

    def of(function: Callable[..., Comparison], *sizes: int | str | bool) -> Build:
        return partial(function, *sizes, half, device)

    dense = [(256, 12, 197, 64), (256, 16, 257, 64), (64, 16, 577, 64), (8, 12, 197, 64)]
    dense += [(64, 16, 257, 80), (64, 12, 197, 32), (64, 12, 197, 128)]
    biases = [(14, 256, 12), (24, 256, 24), (14, 64, 12)]
    return {
        "attention": [of(masked, *sizes) for sizes in dense],
        "windows": [of(window, *sizes) for sizes in WINDOWS],
        "hard": [of(hard, "ViT-L-14-336-quickgelu", 64)],
        "small": [
            of(ragged, 64, 16, 577, 64),
            of(cls_row, 256, 12, 197, 64),
            of(cls_row, 64, 16, 577, 64),
            *(partial(focus, 64, *sizes, device) for sizes in biases),
            partial(resizing, 8, 512, 512, 1024, device),
        ],
    }
