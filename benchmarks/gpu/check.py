"""Everything that needs a GPU, in one run of seven minutes: `make gpu-check`.

    python -m medfocus.benchmarks.gpu.check [OUT] [--only PART ...] [--budget SECONDS]

The pipeline, each kernel compared with other implementations, then the tests and the kernels under
compute-sanitizer: each part in its own process with a time limit, so that one that fails, hangs or
breaks the device's context does not affect the others. Each part is guaranteed its limit, and may
use what the parts before it have left. What gives a goal's figure comes first, once a warm-up has
compiled for all. Writes gpu_check.json (a list of rows), gpu_check.csv, gpu_check.png,
pipeline.json, goals.txt (with all problems) and a folder of logs into OUT, from which it first
removes those of an earlier run. Exit status 1 if there was a problem: a part failed, a package is
missing or, on a device that the goals are for, one was not met; 0 without a GPU, which is printed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from subprocess import TimeoutExpired

from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.kernels.rows import KernelTiming
from medfocus.benchmarks.bench.kernels.shapes import comparisons
from medfocus.benchmarks.bench.parts.kernels import bench_row
from medfocus.benchmarks.bench.report.rows import write_csv, write_json
from medfocus.benchmarks.gpu import kernel_part
from medfocus.benchmarks.gpu.goals import goals_table, missed
from medfocus.benchmarks.gpu.kernel_part import read_rows
from medfocus.benchmarks.gpu.pipeline.goals import pipeline_problems, pipeline_table, read_pipeline
from medfocus.benchmarks.gpu.preflight import LOGS, remove_results, source_problems
from medfocus.benchmarks.gpu.process import Command, started, status_of
from medfocus.benchmarks.gpu.sanitizer import PROGRAM, sanitize
from medfocus.benchmarks.gpu.schedule import (
    CHECKS,
    PARTS,
    PIPELINE,
    WARM_UP,
    allowance,
    limits_of,
)
from medfocus.benchmarks.gpu.test_run import missing_packages, run_tests

RESULTS = Path("benchmarks/results")  # below it, a folder for each device
PIPELINE_PROGRAM = (sys.executable, "-m", "medfocus.benchmarks.gpu.pipeline.measure")
KERNELS_PROGRAM = (sys.executable, "-m", kernel_part.__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, or some."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "out", type=Path, nargs="?",
        help="folder for the results (default: benchmarks/results/ and the device's name)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[], help="run these parts only")
    parser.add_argument("--budget", type=float, help="seconds for everything (default 420)")
    options = parser.parse_args(argv)
    environment = environment_of(Path.cwd())
    if environment.device is None:
        print("There is no GPU here that PyTorch can use: nothing was tested, nothing measured.")
        if options.out is None:
            return 0
    out = options.out or RESULTS / slug(str(environment.device))
    out.mkdir(parents=True, exist_ok=True)
    return check(out, environment, options.only, options.budget)


def slug(device: str) -> str:
    """A device's name as that of a folder: nvidia-h200."""
    return "-".join(device.lower().split())


def check(
    out: Path, environment: Environment, only: Sequence[str] = (), budget: float | None = None
) -> int:
    """All parts, or those in `only`; 1 if there was a problem."""
    remove_results(out)
    if environment.device is None:
        return _finish(out, [], environment, only)
    (out / LOGS).mkdir(exist_ok=True)
    began = time.monotonic()
    limits = limits_of(only, budget)
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    print(f"{environment.device}, {versions}", flush=True)
    problems = list(source_problems(Path.cwd()))
    for part in limits:
        allowed = allowance(part, time.monotonic() - began, limits)
        print(f"{part}: at most {allowed:.0f} s", flush=True)
        problems += run(part, out, allowed, limits)
    return _finish(out, problems, environment, only)


def run(part: str, out: Path, limit: float, chosen: Mapping[str, float]) -> list[str]:
    """Run one part; returns its problems."""
    if limit <= 0:
        return [f"{part}: not begun, the time was used up"]
    if part == WARM_UP:
        with tempfile.TemporaryDirectory() as folder:
            warm_up(warm_ups(Path(folder), chosen), out / LOGS, limit)
        return []
    if part == CHECKS:
        return list(run_checks(out / LOGS, limit))
    problem = start_part(part, out, limit)
    return [] if problem is None else [problem]


def warm_ups(folder: Path, chosen: Mapping[str, float]) -> dict[str, Command]:
    """What compiles for each part that was chosen, untimed."""
    pipeline = (*PIPELINE_PROGRAM, str(folder / "pipeline.json"), "--images", "32", "--rounds", "1")
    commands: dict[str, Command] = {PIPELINE: pipeline, CHECKS: PROGRAM}
    for part in comparisons():
        commands[part] = (*KERNELS_PROGRAM, part, str(folder), "--warm-up")
    return {part: command for part, command in commands.items() if part in chosen}


def warm_up(commands: Mapping[str, Command], logs: Path, limit: float) -> None:
    """Run all at once; what one fails at, its part will report."""
    deadline = time.monotonic() + limit
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(command, logs / f"warm-up-{part}.log"))
            for part, command in commands.items()
        ]
        for process in processes:
            with suppress(TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def run_checks(logs: Path, limit: float) -> Iterator[str]:
    """The tests and the sanitizer at once: neither is timed. Yields what went wrong."""
    with ThreadPoolExecutor(1) as pool:
        sanitized = pool.submit(lambda: list(sanitize(logs, limit)))
        tests = run_tests(Path.cwd(), logs, limit)
        counts = f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped"
        print(f"tests: {counts}", flush=True)
        yield from (f"failed: {name}" for name in tests.failures[:20])
        yield from (f"tests: {trouble}" for trouble in tests.troubles)
        yield from sanitized.result()


def start_part(part: str, out: Path, limit: float) -> str | None:
    """Measure a part in its own process; returns what went wrong, if anything did."""
    command: Command = (*KERNELS_PROGRAM, part, str(out))
    if part == PIPELINE:
        missing = missing_packages()
        if missing:
            return f"{part}: not measured, {' and '.join(missing)} not installed"
        command = (*PIPELINE_PROGRAM, str(out / "pipeline.json"))
    status = status_of(command, limit)
    if status is None:
        return f"{part}: stopped at its time limit of {limit:.0f} s"
    return f"{part}: failed with exit status {status}" if status else None


def _finish(out: Path, problems: list[str], environment: Environment, only: Sequence[str]) -> int:
    rows, pipeline_found = read_rows(out), read_pipeline(out)
    if rows:
        write_json(out / "gpu_check.json", rows)
        write_csv(out / "gpu_check.csv", rows)
        _draw(rows, out)
    else:
        reason = "no GPU" if environment.device is None else "no kernel was timed"
        row = {"status": f"not measured: {reason}", **asdict(environment)}
        (out / "gpu_check.json").write_text(json.dumps([row], indent=1) + "\n")
    parts = only or PARTS
    if PIPELINE in parts:
        problems += pipeline_problems(pipeline_found, environment.device)
    problems += missed(rows, environment.device, parts)
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
