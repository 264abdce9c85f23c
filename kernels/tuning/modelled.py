"""The table of tiles as a model ranks them, without a GPU.

Every candidate is compiled first; those that spill registers or need more shared memory than the
architecture has are dropped. The others are ranked by `roofline.modelled_seconds`.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from medfocus.errors import InputError
from medfocus.kernels.compiler import Compiled
from medfocus.kernels.tile import BANDS, COLUMNS, Tile, TileKey
from medfocus.kernels.tuning.case import Case
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.roofline import CARDS, modelled_seconds, programs_per_multiprocessor

# (block_m, block_n, warps). With 32-bit tokens the registers are the limit, and often only tiles
# with few rows fit.
BLOCKS = {
    16: [
        *((32, 32, 4), (32, 64, 4), (64, 32, 4), (64, 64, 4), (64, 128, 4)),
        *((128, 32, 8), (128, 64, 8), (128, 128, 8), (256, 64, 8)),
    ],
    32: [
        *((16, 16, 4), (16, 32, 4), (32, 16, 4), (32, 32, 4), (64, 16, 4), (64, 32, 4)),
        *((32, 16, 8), (32, 32, 8), (64, 16, 8), (64, 32, 8)),
    ],
}
STAGES = (2, 3)
# The matrix instructions of Hopper and of Blackwell's B200 have 64 rows.
LEAST_ROWS = {80: 16, 89: 16, 90: 64, 100: 64, 120: 16}
RANKING_BAND = 1  # candidates are ranked at N = 197; the choice is compiled again for its own band


def groups(architecture: int) -> list[TileKey]:
    """An architecture's entries, each in one band: the other bands share its candidates."""
    return [
        TileKey(kernel, architecture, bits, columns, RANKING_BAND)
        for kernel, bits, columns in itertools.product(CASES, BLOCKS, COLUMNS)
    ]


def modelled(group: TileKey) -> list[dict[str, Any]]:
    """One row per band: the best tile according to the model."""
    rows = []
    for key, tiles in _ranked(group):
        tile, seconds = next(tiles)
        rows.append(row(key, tile, seconds, "modelled"))
    return rows


def _ranked(group: TileKey) -> Iterator[tuple[TileKey, Iterator[tuple[Tile, float]]]]:
    """Every band of a group, with the tiles that fit and their modelled seconds."""
    for band in range(len(BANDS) + 1):
        key = replace(group, band=band)
        yield key, _fitting(key)


def _fitting(key: TileKey) -> Iterator[tuple[Tile, float]]:
    """The tiles that fit, shortest modelled time first; those with few rows as a last resort."""
    fitted = False
    for wide in (True, False):
        for seconds, tile in _rank(key, _compile_candidates(replace(key, band=RANKING_BAND), wide)):
            if _fits(key, tile):
                fitted = True
                yield tile, seconds
        if fitted:
            return
    raise InputError(
        str(key),
        "every candidate spills or is too large",
        "add smaller tiles to BLOCKS",
        code="kernel.no_tile_fits",
    )


def _cases(key: TileKey, tile: Tile) -> list[Case]:
    return CASES[key.kernel](key, tile)


@functools.cache
def _compile_candidates(group: TileKey, wide: bool) -> dict[Tile, Compiled]:
    """The candidates with (`wide`) or without the rows of the architecture's matrix instruction."""
    tiles = [
        Tile(*block, stages)
        for block, stages in itertools.product(BLOCKS[group.bits], STAGES)
        if (block[0] >= LEAST_ROWS[group.architecture]) == wide
    ]
    return {tile: _cases(group, tile)[0].compile(group.architecture) for tile in tiles}


def _rank(key: TileKey, compiled: dict[Tile, Compiled]) -> list[tuple[float, Tile]]:
    """Modelled seconds and tile, shortest first; of equal ones, that with fewer registers."""
    card = CARDS[key.architecture]
    timed = [
        (modelled_seconds(_cases(key, tile)[0].cost, c, tile.warps, card), c.registers, tile)
        for tile, c in compiled.items()
        if not c.spills
    ]
    timed.sort(key=lambda entry: entry[:2])
    return [(seconds, tile) for seconds, _, tile in timed]


def _fits(key: TileKey, tile: Tile) -> bool:
    """Whether no case of the entry spills or needs more shared memory than there is."""
    card = CARDS[key.architecture]
    compiled = [case.compile(key.architecture) for case in _cases(key, tile)]
    return all(not c.spills and programs_per_multiprocessor(c, tile.warps, card) for c in compiled)


def row(key: TileKey, tile: Tile, seconds: float, how: str) -> dict[str, Any]:
    """An entry as its row in a file."""
    return {**asdict(key), "tile": asdict(tile), "microseconds": round(seconds * 1e6, 1), "by": how}
