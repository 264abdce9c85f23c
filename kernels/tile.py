"""Tile sizes: one table per kernel, filled by `medfocus.kernels.tuning.tune`."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from medfocus.kernels.attention_tiles import cut

# The largest number of keys in each band; a last band has no limit.
BANDS = (64, 224, 320, 640)
# Head widths that have tiles; any other runs with the tile of the next larger one.
COLUMNS = (32, 64, 96, 128)
INTERPRETED_ARCHITECTURE = 90
TABLES = "tiles"


@dataclass(frozen=True)
class Tile:
    """The tile of one program of an attention kernel.

    Attributes:
        block_m: queries per program.
        block_n: keys per step.
        warps: warps of 32 threads per program.
        stages: key tiles in flight.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int


@dataclass(frozen=True)
class TileKey:
    """The key of a tile in the table.

    Attributes:
        kernel: the function's name.
        architecture: compute capability as one number, 90 for 9.0.
        bits: bits of the dtype, 16 or 32.
        columns: one of `COLUMNS`.
        band: index into `BANDS`, len(BANDS) for longer sequences.
    """

    kernel: str
    architecture: int
    bits: int
    columns: int
    band: int


def band(tokens: int) -> int:
    """The band of a sequence length."""
    return sum(tokens > last for last in BANDS)


@functools.lru_cache(maxsize=1024)
def choose(kernel: str, tokens: int, width: int, dtype: torch.dtype, architecture: int) -> Tile:
    """The tile for a call, from the table.

    Args:
        kernel: the function's name.
        tokens: N, keys per sequence.
        width: D.
        dtype: of the tokens.
        architecture: as in `TileKey`; one without entries takes those of the nearest older one.
    """
    tiles = table()
    known = max(
        (key.architecture for key in tiles if key.architecture <= architecture),
        default=min(key.architecture for key in tiles),
    )
    columns = next(columns for columns in COLUMNS if sum(cut(width, dtype)) <= columns)
    return tiles[TileKey(kernel, known, dtype.itemsize * 8, columns, band(tokens))]


def architecture_of(tensor: torch.Tensor) -> int:
    """The compute capability of a tensor's GPU as one number; Hopper's under the interpreter."""
    if tensor.device.type != "cuda":
        return INTERPRETED_ARCHITECTURE
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


@functools.cache
def table() -> dict[TileKey, Tile]:
    """All entries; those measured on a GPU override the modelled ones."""
    folder = resources.files(__package__) / TABLES
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".json")),
        key=lambda file: (file.name != "modelled.json", file.name),
    )
    tiles: dict[TileKey, Tile] = {}
    for file in files:
        for row in json.loads(file.read_text())["rows"]:
            tiles[_key(row)] = Tile(**row["tile"])
    return tiles


def _key(row: dict[str, Any]) -> TileKey:
    return TileKey(**{name: row[name] for name in TileKey.__dataclass_fields__})
