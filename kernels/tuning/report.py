"""Compiles every kernel and table entry, without a GPU, and reports what each needs.

    python -m medfocus.kernels.tuning.report [--arch 80 89 90 100 120] [--json]

Registers, spills and tensor-core instructions are read from the machine code; the roofline time
on a named card is shown next to the modelled time. The exit status is 1 if an entry spills, has a
matrix product off the tensor cores, or does not fit the architecture.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

from rich.console import Console
from rich.progress import track
from rich.table import Table

from medfocus.kernels import dispatch
from medfocus.kernels.tile import TileKey, table
from medfocus.kernels.tuning.case import Case, problems
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.fixed_cases import FIXED_CASES
from medfocus.kernels.tuning.roofline import (
    CARDS,
    modelled_seconds,
    occupancy,
    programs_per_multiprocessor,
    roofline_seconds,
)


@dataclass(frozen=True)
class CompiledLaunch:
    """One compiled launch.

    Attributes:
        kernel, shape, dtype, tile: identify the launch.
        arch, card: the architecture it is compiled for, and the card it is modelled on.
        registers: per thread.
        spills: instructions that load from or store to local memory.
        shared_bytes: per program.
        mma: tensor-core instructions by name.
        programs: programs that fit on a multiprocessor at the same time.
        occupancy: resident warps as a share of the maximum.
        tile_use: useful products as a share of the computed ones.
        bytes, flop: each input read once and each output written once; useful products.
        roofline_us, modelled_us: roofline and modelled time in microseconds.
        problems: descriptions; empty if there is none.
    """

    kernel: str
    shape: str
    dtype: str
    tile: dict[str, int]
    arch: int
    card: str
    registers: int
    spills: int
    shared_bytes: int
    mma: dict[str, int]
    programs: int
    occupancy: float
    tile_use: float
    bytes: float
    flop: float
    roofline_us: float
    modelled_us: float
    problems: list[str]


def compile_all(architectures: list[int]) -> Iterator[CompiledLaunch]:
    """Compile everything, on all cores."""
    entries: list[tuple[int, TileKey | str]] = []
    for architecture in architectures:
        entries += [(architecture, key) for key in table() if key.architecture == architecture]
        entries += [(architecture, kernel) for kernel in FIXED_CASES]
    # Spawned, since PyTorch's threads do not survive a fork.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for found in pool.map(_compile_entry, entries, chunksize=4):
            yield from found


def _compile_entry(entry: tuple[int, TileKey | str]) -> list[CompiledLaunch]:
    architecture, key = entry
    if isinstance(key, TileKey):
        cases = CASES[key.kernel](key, table()[key])
    else:
        cases = FIXED_CASES[key]()
    return [compile_case(case, architecture) for case in cases]


def compile_case(case: Case, architecture: int) -> CompiledLaunch:
    """Compile one launch and inspect the result."""
    tile, card = case.tile, CARDS[architecture]
    compiled = case.compile(architecture)
    return CompiledLaunch(
        kernel=case.kernel,
        shape=" ".join(f"{letter}{size}" for letter, size in case.shape.items()),
        dtype=str(case.dtype).removeprefix("torch."),
        tile=asdict(tile),
        arch=architecture,
        card=card.name,
        registers=compiled.registers,
        spills=compiled.spills,
        shared_bytes=compiled.shared_bytes,
        mma=compiled.mma,
        programs=programs_per_multiprocessor(compiled, tile.warps, card),
        occupancy=round(occupancy(compiled, tile.warps, card), 3),
        tile_use=round(case.cost.tile_use, 3),
        bytes=case.cost.bytes,
        flop=case.cost.flop,
        roofline_us=round(roofline_seconds(case.cost, card) * 1e6, 2),
        modelled_us=round(modelled_seconds(case.cost, compiled, tile.warps, card) * 1e6, 2),
        problems=list(problems(case, compiled, architecture)),
    )


def _print(launches: list[CompiledLaunch]) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("kernel", "shape", "dtype", "card"):
        table.add_column(name)
    table.add_column("tile", justify="right")
    for name in ("regs", "spills", "shared", "occ", "use", "MB", "GFLOP", "roof µs", "model µs"):
        table.add_column(name, justify="right")
    table.add_column("tensor cores")
    for row in launches:
        tile = row.tile
        table.add_row(
            row.kernel,
            row.shape,
            row.dtype,
            row.card,
            f"{tile['block_m']}×{tile['block_n']} {tile['warps']}w {tile['stages']}s",
            str(row.registers),
            str(row.spills),
            str(row.shared_bytes),
            f"{row.occupancy:.0%}",
            f"{row.tile_use:.0%}",
            f"{row.bytes / 1e6:.0f}",
            f"{row.flop / 1e9:.1f}",
            f"{row.roofline_us:.1f}",
            f"{row.modelled_us:.1f}",
            " ".join(f"{n}×{name}" for name, n in row.mma.items()) or "-",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 1 if an entry has a problem."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.kernels.tuning.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", choices=sorted(CARDS), default=sorted(CARDS), metavar="N",
        help="compute capabilities, from %(choices)s (default: all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    if dispatch.INTERPRETED:
        parser.error("TRITON_INTERPRET is set, so nothing can be compiled: unset it")
    console = Console(stderr=True)
    launches = list(track(compile_all(options.arch), "compiling", console=console, total=None))
    if options.json:
        print(json.dumps([asdict(row) for row in launches], indent=1, ensure_ascii=False))
    else:
        _print(launches)
    wrong = [row for row in launches if row.problems]
    for row in wrong:
        console.print(
            f"{row.kernel} {row.shape} {row.dtype} on {row.arch}: {'; '.join(row.problems)}"
        )
    console.print(f"{len(launches)} launches compiled, {len(wrong)} with a problem")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
