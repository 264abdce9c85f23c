"""Everything that needs a GPU, in one run: `make gpu-check OUT=DIR PYTHON=python3`.

    python -m medfocus.benchmarks.gpu.check OUT

Tests, the pipeline, each kernel compared with other implementations, and the kernels under
compute-sanitizer: each part in its own process with a time limit, so that one that fails, hangs or
breaks the device's context does not affect the others. Each part is guaranteed its limit, and may
use what the parts before it have left. Writes gpu_check.json (a list of rows), gpu_check.csv,
gpu_check.png, pipeline.json, goals.txt (with all problems) and the reports of tests and sanitizer
into OUT, from which it first removes those of an earlier run. Exit status 1 if there was a problem:
a part failed, a package is missing or, on the device that the goals are for, one was not met; 0
without a GPU, which is printed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.kernels.compare import compare
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.bench.parts.kernels import bench_row
from medfocus.benchmarks.bench.report.rows import row_of, write_csv, write_json
from medfocus.benchmarks.bench.timing.device import Ceilings, measure_ceilings
from medfocus.benchmarks.gpu.goals import goals_table, missed
from medfocus.benchmarks.gpu.pipeline_goals import pipeline_problems, pipeline_table, read_pipeline
from medfocus.benchmarks.gpu.preflight import remove_results, source_problems
from medfocus.benchmarks.gpu.process import Command, started, status_of
from medfocus.benchmarks.gpu.sanitizer import PROGRAM, sanitize
from medfocus.benchmarks.gpu.test_run import missing_packages, run_tests

# Seconds that each part is guaranteed, in order: the pipeline, with most goals, comes early.
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
AROUND = 20.0  # to start, to compare sources, and to write everything at the end
PIPELINE_PROGRAM = (sys.executable, "-m", "medfocus.benchmarks.gpu.pipeline")
BUDGET = 540.0  # in all; machines that are lent for ten minutes also install the package in them


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, or in a part's own process that part."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--part", choices=[CEILINGS, *comparisons()], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
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

    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    print(f"{environment.device}, {versions}", flush=True)
    problems = list(source_problems(Path.cwd()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, command in warm_ups(folder).items():
            stack.enter_context(started(command, out / f"warm-up-{name}.log"))
        tests = run_tests(Path.cwd(), out, allowed(TESTS))
    counts = f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped"
    print(f"tests: {counts}", flush=True)
    problems += [f"failed: {name}" for name in tests.failures[:20]]
    problems += [f"tests: {trouble}" for trouble in tests.troubles]
    for part in (PIPELINE, CEILINGS, *comparisons()):
        problem = start_part(part, out, allowed(part))
        if problem is not None:
            problems.append(problem)
    problems += sanitize(out, allowed(SANITIZER))
    return _finish(out, problems, environment)


def allowance(part: str, elapsed: float) -> float:
    """Seconds for a part that begins after `elapsed`: all but what later ones are guaranteed."""
    parts = list(LIMITS)
    later = parts[parts.index(part) + 1 :]
    return BUDGET - AROUND - elapsed - sum(LIMITS[name] for name in later)


def warm_ups(folder: Path) -> dict[str, Command]:
    """What runs during the tests, untimed: later parts then find their kernels compiled."""
    pipeline = (*PIPELINE_PROGRAM, str(folder / "pipeline.json"))
    return {PIPELINE: [*pipeline, "--images", "32", "--rounds", "1"], SANITIZER: PROGRAM}


def start_part(part: str, out: Path, limit: float) -> str | None:
    """Run a part in its own process; returns what went wrong, if anything did."""
    if limit <= 0:
        return f"{part}: not begun, the time was used up"
    command: Command = [sys.executable, "-m", __spec__.name, str(out), "--part", part]
    if part == PIPELINE:
        missing = missing_packages()
        if missing:
            return f"{part}: not measured, {' and '.join(missing)} not installed"
        command = (*PIPELINE_PROGRAM, str(out / "pipeline.json"))
    status = status_of(command, limit)
    if status is None:
        return f"{part}: stopped at its time limit of {limit:.0f} s"
    return f"{part}: failed with exit status {status}" if status else None


def result_file(out: Path, part: str) -> Path:
    """Where a part's process writes its rows, line by line as they are measured."""
    return out / f"part-{part.replace(' ', '-')}.jsonl"


def run_part(part: str, out: Path, environment: Environment) -> int:
    """In its own process: one part; returns 1 if anything failed."""
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


def read_rows(out: Path) -> list[KernelTiming]:
    """The rows of all parts' processes."""
    files = (result_file(out, part) for part in comparisons())
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [row_of(KernelTiming, json.loads(line)) for line in lines]


def _finish(out: Path, problems: list[str], environment: Environment) -> int:
    rows, pipeline_found = read_rows(out), read_pipeline(out)
    if rows:
        write_json(out / "gpu_check.json", rows)
        write_csv(out / "gpu_check.csv", rows)
        _draw(rows, out)
    else:
        reason = "no GPU" if environment.device is None else "every part failed"
        row = {"status": f"not measured: {reason}", **asdict(environment)}
        (out / "gpu_check.json").write_text(json.dumps([row], indent=1) + "\n")
    problems += pipeline_problems(pipeline_found, environment.device)
    problems += missed(rows, environment.device)
    tables = [goals_table(rows, environment.device), "", pipeline_table(pipeline_found)]
    text = "\n".join([*(f"PROBLEM {problem}" for problem in problems), *tables])
    (out / "goals.txt").write_text(text + "\n")
    print(text)
    return int(bool(problems))


def _draw(rows: list[KernelTiming], out: Path) -> None:
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return
    from medfocus.benchmarks.bench.report.plots import draw

    for file in draw([bench_row(row) for row in rows if row.cache == "warm"], out):
        file.replace(out / "gpu_check.png")


if __name__ == "__main__":
    sys.exit(main())
