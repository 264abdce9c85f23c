"""Ways to cut attention into tiles: what each computes in vain, and what the compiler makes of it.

    python -m medfocus.benchmarks.tile_waste -o benchmarks/results/compiled/tile_waste.json

Compiled for Hopper with no GPU; the times are those of `medfocus.kernels.roofline`'s model, which
ranks and does not measure.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from medfocus.kernels import dispatch
from medfocus.kernels.attention_tiles import cut, tail
from medfocus.kernels.case import argument_types, attention_work
from medfocus.kernels.compiler import compile_for
from medfocus.kernels.masked_attention import kernel, specialise
from medfocus.kernels.roofline import CARDS, Work, modelled_seconds, programs_a_multiprocessor
from medfocus.kernels.tile import Tile, choose

ARCHITECTURE = 90
DTYPE = torch.bfloat16
# (B, H, N, D): the issue's three goals, then SAM2's head widths at the same length.
SHAPES = [(256, 12, 197, 64), (256, 16, 257, 64), (64, 16, 577, 64)]
WIDTHS = [(256, 12, 197, 72), (256, 12, 197, 96)]


def rows() -> Iterator[dict[str, Any]]:
    """One row a shape and way."""
    for shape in SHAPES:
        tokens = shape[2]
        square, small, tall = Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(128, 64, 8, 2)
        yield _row("128×128 tiles", shape, square, {"TAIL_M": 128, "TAIL_N": 128})
        yield _row("64×64 tiles", shape, small, {"TAIL_M": 64, "TAIL_N": 64})
        yield _row("64×64 tiles, key tail", shape, small, {"TAIL_M": 64})
        yield _row("64×64 tiles, key and query tails", shape, small, {})
        yield _row("128×64 tiles, key tail", shape, tall, {"TAIL_M": 128})
        yield _row("128×64 tiles, key and query tails", shape, tall, {})
        yield _row("the table's", shape, choose("masked_attention", tokens, 64, DTYPE, 90), {})
        yield _seeded(shape)
    for shape in WIDTHS:
        tile = Tile(128, 64, 8, 2)
        yield _row("one part of 128 columns", shape, tile, {"MAIN": 128, "REST": 0})
        yield _row(" + ".join(map(str, cut(shape[3]))) + " columns", shape, tile, {})


def _row(
    way: str, shape: tuple[int, int, int, int], tile: Tile, changed: dict[str, int]
) -> dict[str, Any]:
    _, _, tokens, width = shape
    constants = specialise(tokens, width, DTYPE, tile) | changed
    compiled = compile_for(
        ARCHITECTURE, kernel, argument_types(kernel, DTYPE), constants, tile.warps, tile.stages
    )
    work = _work(shape, tile, constants)
    return {
        **_head(way, shape),
        "tile": [tile.block_m, tile.block_n, tile.warps, tile.stages],
        "use": round(work.tile_use, 3),
        "l2_megabytes": round(work.l2_bytes / 1e6),
        "registers": compiled.registers,
        "spills": compiled.spills,
        "shared_bytes": compiled.shared_bytes,
        "programs": programs_a_multiprocessor(compiled, tile.warps, CARDS[ARCHITECTURE]),
        "mma": compiled.mma,
        "modelled_us": round(
            modelled_seconds(work, compiled, tile.warps, CARDS[ARCHITECTURE]) * 1e6, 1
        ),
    }


def _seeded(shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Arithmetic alone: CLS's key starts the softmax by multiply-adds, the tiles take the rest."""
    tokens = shape[2]
    rows = tokens // 64 * 64 + tail(tokens, 64, DTYPE)
    keys = 1 + (tokens - 1) // 64 * 64 + tail(tokens - 1, 64, DTYPE)
    return {
        **_head("64×64 tiles, both tails, seeded with CLS", shape),
        "use": round(tokens * tokens / (rows * keys), 3),
    }


def _head(way: str, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    return {"way": way, **dict(zip("BHND", shape, strict=True)), "arch": ARCHITECTURE}


def _work(shape: tuple[int, int, int, int], tile: Tile, constants: dict[str, Any]) -> Work:
    """`attention_work`, with the tails and parts that the constants say."""
    batch, heads, tokens, width = shape
    work = attention_work(batch * heads, tokens, tokens, width, DTYPE, tile)
    rows = tokens // tile.block_m * tile.block_m + constants["TAIL_M"]
    keys = tokens // tile.block_n * tile.block_n + constants["TAIL_N"]
    logits = batch * heads * rows * keys
    return work.computing(logits, constants["MAIN"] + constants["REST"])


def main(arguments: list[str] | None = None) -> None:
    """Write the rows."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.tile_waste")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if dispatch.INTERPRETED:
        parser.error("TRITON_INTERPRET is set, so nothing can be compiled: unset it")
    found = {"triton": triton.__version__, "rows": list(rows())}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
