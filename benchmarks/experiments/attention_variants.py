"""Other kernels for masked_attention, compared with the one that is built in and with PyTorch's.

    python -m medfocus.benchmarks.experiments.attention_variants OUT.json [--budget SECONDS]

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
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import torch
from torch import Tensor

from medfocus.benchmarks.baselines.attention import (
    Comparison,
    KernelImplementation,
    Run,
    masked,
    masked_inputs,
)
from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.bench.kernels.compare import compare
from medfocus.benchmarks.bench.timing.device import measure_ceilings
from medfocus.benchmarks.experiments.kernels.variants import SHAPES, Variant, variants
from medfocus.benchmarks.gpu.process import started, status_of
from medfocus.errors import DeviceError
from medfocus.files.atomic_write import atomic_write

BASELINES = ("SDPA efficient", "SDPA cuDNN")
BUDGET = 90.0
MEASURE = "measure"


def main() -> int:
    """Compile, then measure, each in processes of their own; 1 if not everything was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.experiments.attention_variants",
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
    """Launch every `parts`th variant with one image, so that Triton's cache holds it."""
    every = [(shape, variant) for shape in SHAPES for variant in variants(shape[2]).values()]
    for (_, heads, tokens, width), variant in every[part::parts]:
        qkv = torch.zeros(1, tokens, 3 * heads * width, device="cuda", dtype=torch.bfloat16)
        bias = torch.zeros(1, tokens, device="cuda")
        variant.launch(qkv, bias, qkv.new_empty(1, tokens, heads * width), heads)
    torch.cuda.synchronize()


def measure(out: Path) -> None:
    """Write rows as they come."""
    ceilings, environment = measure_ceilings(), environment_of(Path.cwd())
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for row in compare(comparison(*shape, torch.bfloat16, "cuda"), ceilings, environment):
            print(row, flush=True)
            rows.append(asdict(row))
            atomic_write(out, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        torch.cuda.empty_cache()


def comparison(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """The kernel that is built in, the variants, and `BASELINES`."""
    base = masked(batch, heads, tokens, width, dtype, device)
    qkv, bias = masked_inputs(batch, heads, tokens, width, dtype, device)  # the same numbers

    def build(variant: Variant) -> Run:
        out = qkv.new_empty(batch, tokens, heads * width)

        def run() -> Tensor:
            variant.launch(qkv, bias, out, heads)
            return out

        return run

    ours, *others = base.implementations
    layout = ours.layout
    built = [
        KernelImplementation(name, layout, partial(build, variant), path=lambda: "triton")
        for name, variant in variants(tokens).items()
    ]
    baselines = [other for other in others if other.name in BASELINES]
    return replace(base, implementations=[ours, *built, *baselines])


if __name__ == "__main__":
    sys.exit(main())
