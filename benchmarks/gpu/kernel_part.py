"""One part of the kernels' comparisons, in a process of its own.

    python -m medfocus.benchmarks.gpu.kernel_part PART OUT [--warm-up]

Rows are written as they are measured, so that a time limit costs only the later ones. With
`--warm-up` each implementation runs once, untimed: another process then finds it compiled.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from medfocus.benchmarks.baselines.attention import Comparison
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.kernels.compare import compare
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.bench.report.rows import row_of
from medfocus.benchmarks.bench.timing.device import Ceilings, measure_ceilings
from medfocus.benchmarks.gpu.preflight import LOGS
from medfocus.benchmarks.gpu.schedule import CEILINGS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.gpu.kernel_part")
    parser.add_argument("part", choices=[CEILINGS, *comparisons()])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--warm-up", action="store_true", help="run everything once, untimed")
    options = parser.parse_args(argv)
    if options.warm_up:
        return warm_up(options.part)
    (options.out / LOGS).mkdir(parents=True, exist_ok=True)
    return run_part(options.part, options.out, environment_of(Path.cwd()))


def result_file(out: Path, part: str) -> Path:
    """Where a part writes its rows, line by line as they are measured."""
    return out / LOGS / f"part-{part}.jsonl"


def run_part(part: str, out: Path, environment: Environment) -> int:
    """Measure one part; 1 if anything failed."""
    file = result_file(out, part)
    if part == CEILINGS:
        found = measure_ceilings()
        file.write_text(json.dumps(found) + "\n")
        print(f"{found.bandwidth / 1e12:.2f} TB/s, {found.matrix_rate / 1e12:.0f} TFLOP/s")
        return 0
    ceilings_file = result_file(out, CEILINGS)
    if not ceilings_file.exists():
        print(f"{part}: the card's ceilings were not measured, so there is no roofline")
        return 1
    ceilings = Ceilings(*json.loads(ceilings_file.read_text()))
    failed = False
    for build in comparisons()[part]:
        try:
            for row in compare(build(), ceilings, environment):
                print(row, flush=True)
                with file.open("a") as lines:
                    lines.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                failed |= row.implementation == OURS and not row.measured
        except Exception as failure:  # a package that is missing, a kernel that fails
            print(f"{part}: {first_line(failure)}", flush=True)
            failed = True
        torch.cuda.empty_cache()
    return int(failed)


@torch.no_grad()
def warm_up(part: str) -> int:
    """Run each implementation of a part once; what fails is reported when it is measured."""
    for build in comparisons()[part]:
        try:
            _run_once(build())
        except Exception as failure:
            print(f"{part}: {first_line(failure)}", flush=True)
    return 0


def _run_once(comparison: Comparison) -> None:
    for implementation in comparison.implementations:
        try:
            implementation.build()()
        except Exception as failure:
            print(f"{implementation.name}: {first_line(failure)}", flush=True)


def read_rows(out: Path) -> list[KernelTiming]:
    """The rows of all parts' processes."""
    files = (result_file(out, part) for part in comparisons())
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [row_of(KernelTiming, json.loads(line)) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
