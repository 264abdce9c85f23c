"""Fills the table of tiles.

    python -m medfocus.kernels.tuning.tune -o FILE --modelled    compiles and models; without a GPU
    python -m medfocus.kernels.tuning.tune -o FILE               times on this machine's GPU

The second writes FILE again after each entry, so that it can be stopped at any time, by --budget or
otherwise. In `kernels/tiles/` the file overrides the modelled tiles of its architecture; entries
that were not reached keep theirs.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.progress import Progress, track

from medfocus.errors import DeviceError
from medfocus.files.atomic_write import atomic_write
from medfocus.kernels import dispatch
from medfocus.kernels.tile import TileKey, table
from medfocus.kernels.tuning.candidates import Request, compiling
from medfocus.kernels.tuning.case import Case
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.modelled import groups, modelled, row
from medfocus.kernels.tuning.roofline import CARDS
from medfocus.kernels.tuning.search import Entry, Timer, entry, search

MILLISECONDS = 2  # per replay of a graph of launches; the median of ten is taken

Row = dict[str, Any]


def measured(
    keys: Iterable[TileKey],
    request: Request,
    timer: Timer,
    left: Callable[[], float],
    save: Callable[[list[Row]], None],
) -> list[Row]:
    """Search entries and save the rows of those that were timed, again after each round.

    Args:
        keys: of the entries.
        request, timer: see `search`.
        left: seconds until the search ends.
        save: takes the rows, in the order of the table.
    """
    present = table()
    entries = [entry(key, present[key]) for key in keys]
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        task = progress.add_task("timing", total=2 * len(entries))
        for found in search(entries, request, timer, lambda: left() <= 0):
            progress.advance(task)
            console.print(_summary(found), highlight=False)
            save([measured_row(each) for each in entries if each.best])
    rows = [measured_row(each) for each in entries if each.best]
    save(rows)
    console.print(f"{len(rows)} of {len(entries)} entries timed")
    return rows


def measured_row(entry: Entry) -> Row:
    """An entry's row, with the time of every candidate that was timed: case by case, in µs."""
    assert entry.best is not None
    cases = [entry.cases(entry.best)[number] for number in entry.launched]
    times = {
        tile: [round(entry.seconds[tile][number] * 1e6, 1) for number in entry.launched]
        for tile in entry.fastest()
    }
    return {
        **row(entry.key, entry.best, entry.mean(entry.seconds[entry.best]), "measured"),
        "before": [*astuple(entry.before), times.get(entry.before)],
        "shapes": [case.shape for case in cases],
        "calls": [round(entry.calls[number], 1) for number in entry.launched],
        "candidates": [[*astuple(tile), found] for tile, found in times.items()],
        "left_out": [[*astuple(tile), why] for tile, why in entry.left_out.items()],
    }


def _summary(entry: Entry) -> str:
    key = entry.key
    name = f"{key.kernel} {key.bits} bits D{key.columns} band {key.band}"
    if not entry.best:
        return f"{name}: no candidate runs ({'; '.join(sorted({*entry.left_out.values()}))})"
    tile, before = entry.best, entry.seconds.get(entry.before)
    return (
        f"{name}: {'?' if before is None else f'{entry.mean(before) * 1e6:.1f}'} ->"
        f" {entry.mean(entry.seconds[tile]) * 1e6:.1f} µs with {tile.block_m}x{tile.block_n},"
        f" {tile.warps} warps, {tile.stages} stages ({len(entry.seconds)} timed)"
    )


def time_on_gpu(case: Case) -> float:
    """Seconds of a launch, many of them in a CUDA graph; infinity if its result is wrong."""
    assert case.prepare is not None
    launch = case.prepare("cuda", case.shape["B"])
    if not launch.is_accurate():
        return math.inf
    milliseconds = triton.testing.do_bench_cudagraph(
        launch.run, rep=MILLISECONDS, return_mode="median"
    )
    return float(milliseconds) / 1e3


def write(path: Path, head: dict[str, str], rows: list[Row]) -> None:
    """Write a table as JSON, one row per line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    atomic_write(path, f'{{"made": {json.dumps(head)},\n"rows": [\n{lines}\n]}}\n')


def main(arguments: list[str] | None = None) -> None:
    """Write one table."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.kernels.tuning.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--modelled", action="store_true", help="compile and model, without a GPU")
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="the table to write, JSON"
    )
    parser.add_argument(
        "--budget", metavar="SECONDS", type=float, default=math.inf,
        help="time at most this long, first what models launch (default: until all is timed)",
    )  # fmt: skip
    parser.add_argument("--only", metavar="KERNEL", choices=CASES, help="one of %(choices)s")
    options = parser.parse_args(arguments)
    if dispatch.INTERPRETED:
        parser.error("TRITON_INTERPRET is set, so nothing can be compiled: unset it")
    kernels = [options.only] if options.only else list(CASES)
    versions = {"triton": triton.__version__, "torch": str(torch.__version__)}
    cores = len(os.sched_getaffinity(0))
    if options.modelled:
        every = [
            group
            for architecture in CARDS
            for group in groups(architecture)
            if group.kernel in kernels
        ]
        # Spawned, since PyTorch's threads do not survive a fork.
        with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
            rows = list(track(pool.map(modelled, every), "compiling", total=len(every)))
        write(options.out, {"by": "model", **versions}, list(itertools.chain(*rows)))
        return
    if not torch.cuda.is_available():
        problem = "torch finds no CUDA device"
        raise DeviceError("cuda", problem, "pass --modelled", code="device.unavailable")
    device = torch.cuda.get_device_properties(0)
    architecture = 10 * device.major + device.minor
    if architecture not in CARDS:
        raise DeviceError(
            device.name,
            f"has compute capability {architecture}, for which there is no data",
            f"use a GPU of compute capability {', '.join(map(str, CARDS))}",
        )
    head = {"by": "timing", "device": device.name, "driver": _driver(), **versions}
    keys = sorted(
        (key for key in table() if key.architecture == architecture and key.kernel in kernels),
        key=lambda key: key.bits,
    )

    def left() -> float:
        return float(start + options.budget - time.monotonic())

    with compiling(architecture, max(1, cores - 1), left) as request:
        measured(keys, request, time_on_gpu, left, lambda rows: write(options.out, head, rows))


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # containers may lack it
        return "unknown"


if __name__ == "__main__":
    main()
