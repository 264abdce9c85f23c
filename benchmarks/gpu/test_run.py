"""The tests that need a GPU, in several processes: most of their time is compiling.

As a pytest plugin (`-p medfocus.benchmarks.gpu.test_run`) it writes a line as soon as a test is
done, which remains whatever happens to the process.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medfocus.benchmarks.gpu.process import status_of

OUTCOMES = "MEDFOCUS_TEST_OUTCOMES"  # the file for the lines
PROCESSES = 12  # at most
# What else runs on the GPU where there is one: models, uploads, convolutions, the pipeline.
OTHERS = (
    "tests/models/clip/test_encoder.py",
    "tests/models/sam2/test_hiera.py",
    "tests/engine/backends/torch/test_device_images.py",
    "tests/engine/backends/torch/test_exact_convolutions.py",
    "tests/engine/runtime/test_cuda_pipeline.py",
)
UPSTREAM = ("sam2", "open_clip", "pydicom")  # needed by models and engine


def pytest_runtest_logreport(report: Any) -> None:
    """Write the outcome of a test, or of its set-up or tear-down where that failed or skipped."""
    path = os.environ.get(OUTCOMES)
    in_worker = "PYTEST_XDIST_WORKER" in os.environ  # whose reports reach the main process
    if path is not None and not in_worker and (report.when == "call" or not report.passed):
        with Path(path).open("a") as lines:
            lines.write(json.dumps([report.nodeid, report.outcome]) + "\n")


@dataclass(frozen=True)
class TestOutcomes:
    """All tests' outcomes.

    Attributes:
        passed, failed, skipped: tests.
        failures: the failed ones' names.
        troubles: what else went wrong, in words.
    """

    __test__ = False  # no class of tests

    passed: int
    failed: int
    skipped: int
    failures: list[str]
    troubles: list[str]


def run_tests(root: Path, folder: Path, limit: float) -> TestOutcomes:
    """Run them, and write tests.log and tests.jsonl (a line per test) into `folder`.

    The kernels' tests, and those of models and pipeline on them. With pytest-xdist they share
    several processes.

    Args:
        root: of the repository.
        folder: for the reports.
        limit: seconds; tests that are not done by then are killed, which is a trouble.
    """
    if not (root / "tests" / "kernels").is_dir():
        return TestOutcomes(0, 0, 0, [], [f"{root} has no tests: run this in the repository"])
    if find_spec("pytest") is None:
        return TestOutcomes(0, 0, 0, [], ["pytest is not installed"])
    file = folder.resolve() / "tests.jsonl"
    file.write_text("")
    variables = {OUTCOMES: str(file), "OMP_NUM_THREADS": "1"}
    status = status_of([*_command()], limit, folder / "tests.log", variables, root)
    missing = missing_packages()
    troubles = [f"{name} is not installed: models and pipeline untested" for name in missing]
    outcomes = dict(json.loads(line) for line in file.read_text().splitlines())
    found = list(outcomes.values())
    failures = [name for name, outcome in outcomes.items() if outcome == "failed"]
    if status is None:
        troubles.append(f"stopped at the time limit of {limit:.0f} s")
    elif status and (status > 1 or not failures):  # 1 also if a file cannot be imported
        troubles.append(f"pytest ended with {status}: see tests.log")
    passed, skipped = found.count("passed"), found.count("skipped")
    return TestOutcomes(passed, len(failures), skipped, failures, troubles)


def missing_packages() -> list[str]:
    """Those of `UPSTREAM` that are not installed."""
    return [name for name in UPSTREAM if find_spec(name) is None]


def _command() -> Iterator[str]:
    yield from ("env", "-u", "TRITON_INTERPRET", "-u", "PYTEST_XDIST_WORKER")
    yield from (sys.executable, "-m", "pytest", "-q", "-p", "medfocus.benchmarks.gpu.test_run")
    yield from ("-p", "no:cacheprovider", "-m", "gpu or not (slow or long)", "tests/kernels")
    if find_spec("xdist") is not None:
        # Neighbours often need the same kernels: each process begins with a run of them.
        processes = max(1, min(PROCESSES, (os.cpu_count() or 1) * 3 // 4))
        yield from ("-n", str(processes), "--dist", "worksteal")
    # The other tests' set-up builds models, which needs upstream's packages.
    if missing_packages():
        yield "--confcutdir=tests/kernels"
    else:
        yield from OTHERS
