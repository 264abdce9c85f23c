"""Everything that needs a GPU, in one go: `make gpu-check OUT=DIR PYTHON=python3`.

    python -m medfocus.benchmarks.gpu_check OUT

Tests, each kernel beside its peers, the pipeline, the kernels under compute-sanitizer: each part in
a process of its own with a time limit, so that what fails, hangs or breaks the device's context
costs its own part and no other. Writes gpu_check.json (a list of rows), gpu_check.csv,
gpu_check.png, goals.txt, pipeline.json and the reports of tests and sanitizer into OUT. Exit status
1 if a part failed; 0 where there is no GPU, which is said.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from medfocus.benchmarks import kernel_peers as kernels
from medfocus.benchmarks import pipeline_peers as pipeline
from medfocus.benchmarks import ragged_peers
from medfocus.benchmarks.environment import Environment, environment_of
from medfocus.benchmarks.failures import FAILURES, first_line
from medfocus.benchmarks.gpu_compare import compare
from medfocus.benchmarks.gpu_goals import goals_table
from medfocus.benchmarks.gpu_plot import plot
from medfocus.benchmarks.gpu_rows import Row, write_rows
from medfocus.benchmarks.gpu_sanitizer import TOOLS, sanitize
from medfocus.benchmarks.gpu_tests import run_tests
from medfocus.benchmarks.gpu_timing import Ceilings, measure_ceilings

BUDGET = 520.0  # seconds in all
TEST_LIMIT, SANITIZER_LIMIT = 170.0, 40.0  # the latter for each of its tools
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


PIPELINE = "pipeline"  # the models and the engine; what is left of the time
LIMITS = {"attention": 170.0, "windows": 60.0, "hard focus": 60.0, "small kernels": 60.0}


def main(arguments: list[str] | None = None) -> int:
    """Run all parts, or in a part's own process that part."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder for what is found")
    parser.add_argument("--part", choices=["ceilings", *LIMITS], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    environment = environment_of(Path.cwd())
    if options.part is not None:
        return run_part(options.part, options.out, environment)
    return check(options.out, environment)


def check(out: Path, environment: Environment) -> int:
    """All parts; 1 if one failed."""
    if environment.device is None:
        print("There is no GPU here that PyTorch can use: nothing was tested, nothing measured.")
        return _finish(out, [], [], environment)
    began = time.monotonic()
    found = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    print(f"{environment.device}, {found}")
    problems = list(source_problems(Path.cwd()))
    outcome = run_tests(Path.cwd(), out, TEST_LIMIT)
    print(f"tests: {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped")
    problems += [f"failed: {name}" for name in outcome.failures[:20]]
    problems += [f"tests: {trouble}" for trouble in outcome.troubles]
    reserved = len(TOOLS) * SANITIZER_LIMIT
    for part, limit in {"ceilings": 40.0, **LIMITS, PIPELINE: 150.0}.items():
        left = BUDGET - reserved - (time.monotonic() - began)
        problem = start_part(part, out, min(limit, left))
        if problem is not None:
            problems.append(problem)
    left = BUDGET - (time.monotonic() - began)
    problems += sanitize(out, min(SANITIZER_LIMIT, left / len(TOOLS)))
    return _finish(out, read_rows(out), problems, environment)


def source_problems(root: Path) -> Iterator[str]:
    """Whether the package that is imported is the one in the repository at `root`."""
    imported = Path(kernels.__file__).parents[1] / "kernels"
    for file in sorted((root / "kernels").glob("*.py")):
        other = imported / file.name
        if not other.exists() or other.read_bytes() != file.read_bytes():
            yield f"the installed medfocus is not this repository's: {file.name} differs"
            return


def start_part(part: str, out: Path, limit: float) -> str | None:
    """Run a part in a process of its own; what went wrong, if anything did."""
    result_file(out, part).unlink(missing_ok=True)
    if limit <= 0:
        return f"{part}: not begun, the time was used up"
    command = [sys.executable, "-m", __spec__.name, str(out), "--part", part]
    if part == PIPELINE:
        missing = [name for name in ("sam2", "open_clip") if find_spec(name) is None]
        if missing:
            print(f"{part}: not measured, {' and '.join(missing)} not installed")
            return None
        command = [sys.executable, "-m", "medfocus.benchmarks.gpu_pipeline"]
        command.append(str(out / "pipeline.json"))
    try:
        done = subprocess.run(command, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"{part}: stopped at its time limit of {limit:.0f} s"
    return f"{part}: failed with exit status {done.returncode}" if done.returncode else None


def result_file(out: Path, part: str) -> Path:
    """Where a part's process leaves what it found, line by line as it finds it."""
    return out / f"part-{part.replace(' ', '-')}.jsonl"


def run_part(part: str, out: Path, environment: Environment) -> int:
    """In a process of its own: one part, its rows written as they come; 1 if anything failed."""
    file = result_file(out, part)
    if part == "ceilings":
        found = measure_ceilings()
        file.write_text(json.dumps(found._asdict()) + "\n")
        print(f"{found.bandwidth / 1e12:.2f} TB/s, {found.matrix_rate / 1e12:.0f} TFLOP/s")
        return 0
    ceilings_file = result_file(out, "ceilings")
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


def line_of(row: Row) -> str:
    """A row for the eye."""
    name = f"{row.kernel} {row.shape}: {row.contender}"
    if row.median_us is None:
        return f"{name}: {row.status}"
    return (
        f"{name} ({row.cache}, {row.path}): {row.median_us:.1f} µs,"
        f" {row.ratio:.2f} of ours, {row.roofline_share:.0%} of the roofline, error {row.error:.1e}"
    )


def read_rows(out: Path) -> list[Row]:
    """What the parts' processes left."""
    files = (result_file(out, part) for part in LIMITS)
    return [
        Row(**json.loads(line))
        for file in files
        if file.exists()
        for line in file.read_text().splitlines()
    ]


def _finish(out: Path, rows: list[Row], problems: list[str], environment: Environment) -> int:
    write_rows(out, rows, environment)
    if rows:
        missing = plot(rows, out / "gpu_check.png")
        if missing is not None:
            print(f"no picture: {missing}")
    table = goals_table(rows, environment.device)
    (out / "goals.txt").write_text(table + "\n")
    for problem in problems:
        print(f"PROBLEM {problem}")
    print(table)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
