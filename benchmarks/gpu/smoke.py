"""What works on this GPU, in two minutes: `make gpu-smoke`.

    python -m medfocus.benchmarks.gpu.smoke [--only TEXT ...] [--budget SECONDS]

Each kernel runs once on a published model's shape, and is compared with float64; the engine of
preset `base` (random weights, bf16) captures its CUDA graphs, which are compared with eager runs,
and answers a stream of 64 images, which is compared with the float32 engine. Each of these runs in
a process of its own, several at a time, so that one that breaks the device's context, hangs or runs
out of memory is named and stops no other. Exit status 1 if anything is broken; 0 without a GPU.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.gpu.process import status_of
from medfocus.benchmarks.gpu.smoke_checks import checks_of

BUDGET = 120.0  # seconds
AT_ONCE = 6  # processes: each holds a model or the tensors of one comparison
PROGRAM = (sys.executable, "-m", __spec__.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, or in a process of its own one thing."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", default=[""], help="run those with this in their name"
    )
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds (default 120)")
    parser.add_argument("--run", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was tested.")
        return 0
    tests = checks_of("cuda")
    if options.run is not None:
        return run(tests[options.run])
    print(torch.cuda.get_device_name(), flush=True)
    names = [name for name in tests if any(text in name for text in options.only)]
    return smoke(names, options.budget)


def smoke(names: Sequence[str], budget: float) -> int:
    """Run tests by name, each in its own process; 1 if anything is broken."""
    deadline = time.monotonic() + budget
    width = max(map(len, names))

    def works(name: str, folder: Path) -> bool:
        began, log = time.monotonic(), folder / f"{names.index(name)}.log"
        left = deadline - began
        status = status_of([*PROGRAM, "--run", name], left, log) if left > 0 else None
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        reason = said[-1][:200] if said else ""
        if status is None:
            reason = "stopped, the time was used up"
        elif status:
            reason = f"exit status {status}: {reason}"
        verdict = "BROKEN" if status != 0 else "works "
        print(f"{verdict} {name:{width}} {time.monotonic() - began:4.0f} s  {reason}", flush=True)
        return status == 0

    processes = max(1, min(AT_ONCE, (os.cpu_count() or 1) // 2))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        working = list(pool.map(partial(works, folder=Path(folder)), names))
    broken = [name for name, fine in zip(names, working, strict=True) if not fine]
    print(f"{len(names)} tested, {len(broken)} broken{': ' if broken else ''}{', '.join(broken)}")
    return int(bool(broken))


def run(test: Callable[[], str]) -> int:
    """One test; its last line is what was seen, or what is wrong."""
    try:
        print(test())
    except Exception as failure:  # whatever PyTorch or Triton raises
        print(first_line(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
