"""The tests that want a GPU, in several processes: most of their time is compiling.

As a pytest plugin (`-p medfocus.benchmarks.gpu.test_run`) it keeps one process's share of the tests,
and writes a line as soon as each is done, which outlives whatever happens to the process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHARE = "MEDFOCUS_TEST_SHARE"  # "2/8": the third of eight processes
OUTCOMES = "MEDFOCUS_TEST_OUTCOMES"  # the file for the lines
RUN_LENGTH = 16  # neighbours often need the same kernels, and stay together
# These models run the kernels, on the GPU where there is one.
PIPELINE_ON_STREAMS = "tests/engine/runtime/test_cuda_pipeline.py"
MODELS_ON_KERNELS = ("tests/models/clip/test_encoder.py", "tests/models/sam2/test_hiera.py")
UPSTREAM = ("sam2", "open_clip", "pydicom")  # what models and engine are made with
LAST_WORDS = 15  # seconds to write the reports once interrupted


def in_share(index: int, share: str) -> bool:
    """Whether a test, by its place in the collection, belongs to a share."""
    number, shares = map(int, share.split("/"))
    return index // RUN_LENGTH % shares == number


def pytest_configure(config: Any) -> None:
    """Be interruptible: a job in a shell's background inherits that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep this process's share."""
    share = os.environ.get(SHARE)
    if share is None:
        return
    mine = [item for index, item in enumerate(items) if in_share(index, share)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine


def pytest_runtest_logreport(report: Any) -> None:
    """Write down what became of a test, or of its set-up or tear-down if that is all there is."""
    path = os.environ.get(OUTCOMES)
    if path is not None and (report.when == "call" or not report.passed):
        with Path(path).open("a") as lines:
            lines.write(json.dumps([report.nodeid, report.outcome]) + "\n")


@dataclass(frozen=True)
class Outcome:
    """Of all processes together.

    Attributes:
        passed, failed, skipped: tests.
        failures: the failed ones' names.
        troubles: what else went wrong, in words.
    """

    passed: int
    failed: int
    skipped: int
    failures: list[str]
    troubles: list[str]

    @property
    def fine(self) -> bool:
        """Whether tests ran, and none failed."""
        return self.passed > 0 and not self.failed and not self.troubles


def run_tests(root: Path, folder: Path, limit: float, processes: int | None = None) -> Outcome:
    """Run them, and write junit-*.xml and tests-*.log into `folder`.

    The kernels' tests, and those of the models on them: what the CPU tests in the interpreter,
    the GPU tests here.

    Args:
        root: of the repository.
        folder: for the reports.
        limit: seconds; then what is left is given up, and said to be, in `LAST_WORDS` more.
        processes: to share the tests among; by the cores when None.
    """
    if not (root / "tests" / "kernels").is_dir():
        return Outcome(0, 0, 0, [], [f"{root} holds no tests: run this in the repository"])
    if find_spec("pytest") is None:
        return Outcome(0, 0, 0, [], ["pytest is not installed"])
    shares = processes or max(1, min(8, (os.cpu_count() or 1) // 2))
    running = [_start(root, folder, f"{n}/{shares}", n) for n in range(shares)]
    troubles = [
        f"{name} is not installed: models and pipeline untested" for name in missing_packages()
    ]
    troubles += _await(running, time.monotonic() + limit)
    for index, process in enumerate(running):
        # 0 passed, 1 failed, 2 interrupted, 5 none in this share
        if process.returncode not in (0, 1, 2, 5):
            troubles.append(
                f"process {index} ended with {process.returncode}: see tests-{index}.log"
            )
    return _read(folder, shares, troubles)


def missing_packages() -> list[str]:
    """Those of `UPSTREAM` that are not installed."""
    return [name for name in UPSTREAM if find_spec(name) is None]


def _start(root: Path, folder: Path, share: str, index: int) -> "subprocess.Popen[bytes]":
    report, outcomes = folder.resolve() / f"junit-{index}.xml", outcomes_file(folder, index)
    outcomes.write_text("")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "medfocus.benchmarks.gpu.test_run"]
    command += ["-p", "no:cacheprovider", "-m", "gpu or not (slow or long)"]
    command += [f"--junit-xml={report}"]
    command += list(_paths())
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {SHARE: share, OUTCOMES: str(outcomes.resolve()), "OMP_NUM_THREADS": "1"}
    with (folder / f"tests-{index}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def _paths() -> Iterator[str]:
    yield "tests/kernels"
    # The other tests' set-up builds models, which takes upstream's packages.
    if not missing_packages():
        yield from (*MODELS_ON_KERNELS, PIPELINE_ON_STREAMS)
    else:
        yield "--confcutdir=tests/kernels"


def _await(running: "list[subprocess.Popen[bytes]]", deadline: float) -> Iterator[str]:
    stopped = 0
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then still writes its report
            stopped += 1
    deadline += LAST_WORDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if stopped:
        yield f"stopped at the time limit: {stopped} of {len(running)} processes were not done"


def outcomes_file(folder: Path, index: int) -> Path:
    """Where a process writes what became of each test."""
    return folder / f"tests-{index}.jsonl"


def _read(folder: Path, shares: int, troubles: list[str]) -> Outcome:
    outcomes = dict(
        json.loads(line)
        for index in range(shares)
        for line in outcomes_file(folder, index).read_text().splitlines()
    )
    found = list(outcomes.values())
    failures = [name for name, outcome in outcomes.items() if outcome == "failed"]
    return Outcome(found.count("passed"), len(failures), found.count("skipped"), failures, troubles)
