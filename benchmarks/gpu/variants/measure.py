"""Other kernels for attention, compared with those that are built in and with PyTorch's.

    python -m medfocus.benchmarks.gpu.variants.measure OUT.json [--budget SECONDS]

On a GPU, at the goals' shapes, timed in turns, each with its error against float64. A variant that
is clearly faster may become the kernel. The rows are written as they are measured; after the budget
everything is stopped. Up to half of it goes to compiling, on all cores.
"""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import torch

from medfocus.benchmarks.baselines.attention import OURS
from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.bench.kernels.compare import compare
from medfocus.benchmarks.bench.timing.device import measure_ceilings
from medfocus.benchmarks.gpu.process import started, status_of
from medfocus.benchmarks.gpu.variants.comparisons import VARIANT, comparisons
from medfocus.errors import DeviceError
from medfocus.files.atomic_write import atomic_write

BUDGET = 90.0
MEASURE = "measure"


def main() -> int:
    """Compile, then measure, each in processes of their own; 1 if not everything was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.variants.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        problem = "torch finds no CUDA device"
        raise DeviceError("cuda", problem, "run this on a GPU", code="device.unavailable")
    if options.part == MEASURE:
        measure(options.out)
        return 0
    if options.part is not None:
        compile_some(*map(int, options.part.split("/")))
        return 0
    end = time.monotonic() + options.budget
    command = [sys.executable, "-m", __spec__.name, str(options.out), "--part"]
    with ExitStack() as stack:
        processes = min(16, os.cpu_count() or 1)
        parts = (f"{part}/{processes}" for part in range(processes))
        compiling = [stack.enter_context(started([*command, part])) for part in parts]
        for process in compiling:
            with suppress(TimeoutExpired):
                process.wait(max(0.0, end - options.budget / 2 - time.monotonic()))
    return int(status_of([*command, MEASURE], end - time.monotonic()) != 0)


def compile_some(part: int, parts: int) -> None:
    """Run every `parts`th variant on one image, so that Triton's cache holds it."""
    every = [
        implementation for build in comparisons(1) for implementation in build().implementations
    ]
    ours = [each for each in every if each.name == OURS or each.name.startswith(VARIANT)]
    for implementation in ours[part::parts]:
        with suppress(Exception):  # measuring says why
            implementation.build()()
    torch.cuda.synchronize()


def measure(out: Path) -> None:
    """Write rows as they come."""
    ceilings, environment = measure_ceilings(), environment_of(Path.cwd())
    rows: list[dict[str, Any]] = []
    for build in comparisons():
        for row in compare(build(), ceilings, environment):
            print(row, flush=True)
            rows.append(asdict(row))
            atomic_write(out, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
