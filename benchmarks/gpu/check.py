"""Everything that needs a GPU, in one go: `make gpu-check OUT=DIR PYTHON=python3`.

    python -m medfocus.benchmarks.gpu.check OUT

Tests, the pipeline, each kernel beside its peers, the kernels under compute-sanitizer: each part in
a process of its own with a time limit, so that what fails, hangs or breaks the device's context
costs its own part and no other. Each part is promised its limit, and may take besides what those
before it have left. Writes gpu_check.json (a list of rows), gpu_check.csv, gpu_check.png,
pipeline.json, goals.txt (with all problems) and the reports of tests and sanitizer into OUT, where
it first removes those of an earlier run. Exit status 1 if there was a problem: a part failed, a
package is missing or, on the device that the goals are for, one was not met; 0 where there is no
GPU, which is said.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from medfocus.benchmarks.baselines import attention as kernels
from medfocus.benchmarks.baselines import pipeline as pipeline
from medfocus.benchmarks.baselines import ragged as ragged_peers
from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.failures import FAILURES, first_line
from medfocus.benchmarks.gpu.compare import compare
from medfocus.benchmarks.gpu.goals import goals_table, missed
from medfocus.benchmarks.gpu.pipeline_goals import pipeline_problems, pipeline_table, read_pipeline
from medfocus.benchmarks.gpu.plot import plot
from medfocus.benchmarks.gpu.preflight import remove_results, source_problems
from medfocus.benchmarks.gpu.process import Command, beside, status_of
from medfocus.benchmarks.gpu.rows import KernelTiming, line_of, write_rows
from medfocus.benchmarks.gpu.sanitizer import PROGRAM, sanitize
from medfocus.benchmarks.gpu.test_run import LAST_WORDS, missing_packages, run_tests
from medfocus.benchmarks.gpu.timing import Ceilings, measure_ceilings

# Seconds that each part is promised, in order: the pipeline, which most is asked of, comes early.
TESTS, PIPELINE, CEILINGS, SANITIZER = "tests", "pipeline", "ceilings", "sanitizer"
LIMITS = {
    TESTS: 120.0,
    PIPELINE: 170.0,
    CEILINGS: 20.0,
    "attention": 70.0,
    "windows": 25.0,
    "hard focus": 20.0,
    "small kernels": 20.0,
    SANITIZER: 75.0,
}
AROUND = 20.0  # to start, to compare sources, and to write all down at the end
BUDGET = 540.0  # in all; a borrowed machine gives 600, in which the package is installed too
Build = Callable[[], kernels.Comparison]


def comparisons() -> dict[str, list[Build]]:
    """Of each part, those with a goal first: a part's time limit cuts off the rest."""
    half, device = torch.bfloat16, "cuda"

    def of(function: Callable[..., kernels.Comparison], *sizes: int | str | bool) -> Build:
        return partial(function, *sizes, half, device)

    dense = [(256, 12, 197, 64), (256, 16, 257, 64), (64, 16, 577, 64), (8, 12, 197, 64)]
    dense += [(64, 16, 257, 80), (64, 12, 197, 32), (64, 12, 197, 128)]
    windows = [
        ("Hiera-T stage 1", 8, 256, 96, 1, 8, False),
        ("Hiera-T stage 2", 8, 128, 192, 2, 4, False),
        ("Hiera-T stage 3", 8, 64, 384, 4, 14, False),
        ("Hiera-T stage 4", 8, 32, 768, 8, 7, False),
        ("Hiera-T into stage 2", 8, 256, 192, 2, 8, True),
        ("Hiera-B+ stage 3", 8, 64, 448, 8, 14, False),
        ("Hiera-L stage 3", 8, 64, 576, 8, 16, False),
    ]
    return {
        "attention": [of(kernels.masked, *sizes) for sizes in dense],
        "windows": [of(pipeline.window, *sizes) for sizes in windows],
        "hard focus": [of(pipeline.hard, "ViT-L-14-336-quickgelu", 64)],
        "small kernels": [
            of(ragged_peers.ragged, 64, 16, 577, 64),
            of(ragged_peers.cls_row, 256, 12, 197, 64),
            of(ragged_peers.cls_row, 64, 16, 577, 64),
            *(
                partial(pipeline.focus, 64, grid, side, layers, device)
                for grid, side, layers in ((14, 256, 12), (24, 256, 24), (14, 64, 12))
            ),
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run all parts, or in a part's own process that part."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder for what is found")
    parser.add_argument("--part", choices=[CEILINGS, *comparisons()], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    environment = environment_of(Path.cwd())
    if options.part is not None:
        return run_part(options.part, options.out, environment)
    return check(options.out, environment)


def check(out: Path, environment: Environment) -> int:
    """All parts; 1 if there was a problem."""
    remove_results(out)
    if environment.device is None:
        print("There is no GPU here that PyTorch can use: nothing was tested, nothing measured.")
        return _finish(out, [], environment)
    began = time.monotonic()

    def allowed(part: str) -> float:
        return allowance(part, time.monotonic() - began)

    found = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    print(f"{environment.device}, {found}", flush=True)
    problems = list(source_problems(Path.cwd()))
    with tempfile.TemporaryDirectory() as folder, beside(warm_ups(Path(folder)), out):
        outcome = run_tests(Path.cwd(), out, allowed(TESTS) - LAST_WORDS)
    print(
        f"tests: {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped",
        flush=True,
    )
    problems += [f"failed: {name}" for name in outcome.failures[:20]]
    problems += [f"tests: {trouble}" for trouble in outcome.troubles]
    for part in (PIPELINE, CEILINGS, *comparisons()):
        problem = start_part(part, out, allowed(part))
        if problem is not None:
            problems.append(problem)
    problems += sanitize(out, allowed(SANITIZER))
    return _finish(out, problems, environment)


def allowance(part: str, elapsed: float) -> float:
    """Seconds for a part that begins after `elapsed`: all but what is promised to later ones."""
    parts = list(LIMITS)
    later = parts[parts.index(part) + 1 :]
    return BUDGET - AROUND - elapsed - sum(LIMITS[name] for name in later)


def warm_ups(folder: Path) -> dict[str, Command]:
    """What runs beside the tests, untimed: later parts then find their kernels compiled."""
    pipeline = pipeline_command(folder / "pipeline.json")
    return {PIPELINE: [*pipeline, "--images", "32", "--rounds", "1"], SANITIZER: PROGRAM}


def pipeline_command(out: Path) -> Command:
    """The program for the part `pipeline`."""
    return sys.executable, "-m", "medfocus.benchmarks.gpu.pipeline", str(out)


def start_part(part: str, out: Path, limit: float) -> str | None:
    """Run a part in a process of its own; what went wrong, if anything did."""
    if limit <= 0:
        return f"{part}: not begun, the time was used up"
    command: Command = [sys.executable, "-m", __spec__.name, str(out), "--part", part]
    if part == PIPELINE:
        missing = missing_packages()
        if missing:
            return f"{part}: not measured, {' and '.join(missing)} not installed"
        command = pipeline_command(out / "pipeline.json")
    status = status_of(command, limit)
    if status is None:
        return f"{part}: stopped at its time limit of {limit:.0f} s"
    return f"{part}: failed with exit status {status}" if status else None


def result_file(out: Path, part: str) -> Path:
    """Where a part's process leaves what it found, line by line as it finds it."""
    return out / f"part-{part.replace(' ', '-')}.jsonl"


def run_part(part: str, out: Path, environment: Environment) -> int:
    """In a process of its own: one part, its rows written as they come; 1 if anything failed."""
    file = result_file(out, part)
    if part == CEILINGS:
        found = measure_ceilings()
        file.write_text(json.dumps(found._asdict()) + "\n")
        print(f"{found.bandwidth / 1e12:.2f} TB/s, {found.matrix_rate / 1e12:.0f} TFLOP/s")
        return 0
    ceilings_file = result_file(out, CEILINGS)
    if not ceilings_file.exists():
        print(f"{part}: the card's ceilings were not measured, so there is no prediction")
        return 1
    ceilings = Ceilings(**json.loads(ceilings_file.read_text()))
    failed = False
    for build in comparisons()[part]:
        try:
            comparison = build()
            for row in compare(comparison, ceilings, environment):
                print(line_of(row), flush=True)
                with file.open("a") as lines:
                    lines.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                failed |= row.contender == kernels.OURS and not row.measured
        except FAILURES as failure:
            print(f"{part}: {first_line(failure)}", flush=True)
            failed = True
        torch.cuda.empty_cache()
    return int(failed)


def read_rows(out: Path) -> list[KernelTiming]:
    """What the parts' processes left."""
    files = (result_file(out, part) for part in comparisons())
    return [
        KernelTiming(**json.loads(line))
        for file in files
        if file.exists()
        for line in file.read_text().splitlines()
    ]


def _finish(out: Path, problems: list[str], environment: Environment) -> int:
    rows, pipeline_found = read_rows(out), read_pipeline(out)
    write_rows(out, rows, environment)
    if rows:
        missing = plot(rows, out / "gpu_check.png")
        if missing is not None:
            print(f"no picture: {missing}")
    problems += pipeline_problems(pipeline_found, environment.device)
    problems += missed(rows, environment.device)
    said = [f"PROBLEM {problem}" for problem in problems]
    tables = [goals_table(rows, environment.device), "", pipeline_table(pipeline_found)]
    text = "\n".join([*said, *tables])
    (out / "goals.txt").write_text(text + "\n")
    print(text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
