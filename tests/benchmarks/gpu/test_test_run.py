"""The tests' processes: counted, stopped at their limit, with what is missing named."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medfocus.benchmarks.gpu import test_run as gpu_tests
from medfocus.benchmarks.gpu.process import Command, started
from medfocus.benchmarks.gpu.test_run import OTHERS, run_tests
from tests.waiting import wait_until


def repository(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tests/kernels").mkdir(parents=True)
    (tmp_path / "tests/kernels/test_it.py").write_text(text)
    for other in OTHERS:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: a\n    slow: b\n")
    return tmp_path


@pytest.mark.parametrize("xdist", [True, False])
def test_tests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdist: bool) -> None:
    if not xdist:
        monkeypatch.setattr(
            gpu_tests, "find_spec", lambda name: None if name == "xdist" else find_spec(name)
        )
    text = (
        "import os, pytest\n"
        "@pytest.mark.parametrize('n', range(40))\n"
        "def test_a(n): assert n != 33 and 'TRITON_INTERPRET' not in os.environ\n"
        "@pytest.mark.skip(reason='of words')\ndef test_b(): pass\n"
        "@pytest.mark.slow\ndef test_c(): assert False\n"
        "@pytest.mark.slow\n@pytest.mark.gpu\ndef test_d(): pass\n"
    )
    found = run_tests(repository(tmp_path, text), tmp_path, 600)
    assert (found.passed, found.failed, found.skipped) == (40, 1, 1)
    assert found.failures == ["tests/kernels/test_it.py::test_a[33]"]
    assert not found.troubles
    assert ("nodes" in (tmp_path / "tests.log").read_text()) == xdist


def test_tests_stop_at_their_limit_and_keep_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = tmp_path / "tests.jsonl"

    def stop_after_one(command: Command, limit: float, *where: Any) -> None:
        """As `status_of` where the limit is reached, whenever that is: after the first outcome."""
        with started(command, *where):
            wait_until(lambda: outcomes.read_text().endswith("\n"))

    monkeypatch.setattr(gpu_tests, "status_of", stop_after_one)
    text = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(3600)\n"
    found = run_tests(repository(tmp_path, text), tmp_path, 12)
    assert (found.passed, found.failed) == (1, 0)
    assert found.troubles == ["stopped at the time limit of 12 s"]


def test_no_tests_are_a_trouble(tmp_path: Path) -> None:
    assert "has no tests" in run_tests(tmp_path, tmp_path, 5).troubles[0]
    (trouble,) = run_tests(repository(tmp_path, "def broken(:\n"), tmp_path, 600).troubles
    assert trouble.endswith("see tests.log")


def test_models_that_cannot_be_tested_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tests, "UPSTREAM", ("sam2", "nowhere_at_all"))
    root = repository(tmp_path, "def test_a(): pass\n")
    (root / OTHERS[0]).write_text("def test_b(): assert False\n")
    found = run_tests(root, tmp_path, 600)
    assert (found.passed, found.failed) == (1, 0)
    assert found.troubles == ["nowhere_at_all is not installed: models and pipeline untested"]


def test_every_test_for_a_gpu_is_run() -> None:
    """But those of the benchmarks, which gpu-check itself runs."""
    root = Path(__file__).parents[3]
    files = {str(file.relative_to(root)): file for file in root.glob("tests/**/test_*.py")}
    marked = {name for name, file in files.items() if "pytest.mark.gpu" in file.read_text()}
    others = {
        name for name in marked if not name.startswith(("tests/kernels/", "tests/benchmarks/"))
    }
    assert others
    assert others <= set(OTHERS) <= files.keys()
