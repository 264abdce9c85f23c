"""`make gpu-smoke` as far as it runs without a GPU: what is broken is named, and stops no other."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from medfocus.benchmarks.baselines.attention import Comparison, masked
from medfocus.benchmarks.gpu import smoke as gpu_smoke
from medfocus.benchmarks.gpu import smoke_checks
from medfocus.benchmarks.gpu.process import status_of
from medfocus.benchmarks.gpu.smoke_checks import checks_of, graphs_test, kernel_test, stream_test
from medfocus.errors import DeviceError
from medfocus.kernels import dispatch
from tests.errors import refuses

SCRIPT = """
case "$2" in
  dies) echo begun; kill -9 $$ ;;
  hangs) sleep 3600 ;;
  fails) echo of it; echo "DeviceError: it is wrong"; exit 1 ;;
  *) echo "error 2.0e-03" ;;
esac
"""


def test_what_is_broken_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_smoke, "PROGRAM", ("sh", "-c", SCRIPT, "sh"))

    def status(command: list[str], limit: float, log: Path) -> int | None:
        return status_of(command, 0.3 if command[-1] == "hangs" else 600.0, log)

    monkeypatch.setattr(gpu_smoke, "status_of", status)
    names = ["dies", "fails", "works", "hangs", "so too"]
    assert gpu_smoke.smoke(names, 600.0) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    found = {line[7:13].strip(): (line.split()[0], line) for line in lines}
    verdicts = [found[name][0] for name in names]
    assert verdicts == ["BROKEN", "BROKEN", "works", "BROKEN", "works"]
    assert "exit status -9" in found["dies"][1]
    assert found["fails"][1].endswith("exit status 1: DeviceError: it is wrong")
    assert found["works"][1].endswith("error 2.0e-03")
    assert last == "5 tested, 3 broken: dies, fails, hangs"
    assert gpu_smoke.smoke(["works"], 60.0) == 0
    assert gpu_smoke.smoke(["works"], 0.0) == 1  # no time for it


def small() -> Comparison:
    return masked(2, 1, 50, 64, torch.float32, "cpu")


def test_a_kernel_is_compared_with_float64(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match="ran as torch"):  # the tests' default on a CPU
        kernel_test(small)
    with dispatch.using("require"):
        assert gpu_smoke.run(partial(kernel_test, small)) == 0
        monkeypatch.setitem(smoke_checks.MOST_ERROR, torch.float32, 1e-12)
        assert gpu_smoke.run(partial(kernel_test, small)) == 1
        kernel_test(lambda: replace(small(), kernel=smoke_checks.ENCODER))  # has its own limit
    assert "has an error of" in capsys.readouterr().out


def test_names_are_distinct_and_cover_every_kernel() -> None:
    names = list(checks_of("cuda"))
    assert names[:2] == ["stream of 64 images", "CUDA graphs"]
    for kernel in ("masked", "window", "hard", "ragged", "cls_row", "focus"):
        assert any(f": {kernel} " in name for name in names)


def test_graphs_and_stream_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where nothing is captured and both engines are float32."""
    monkeypatch.setattr(smoke_checks, "IMAGES", 6)
    monkeypatch.setattr(smoke_checks, "BATCH", 2)
    assert graphs_test("tiny", "cpu") == "0 graphs, error 0.0e+00"
    assert stream_test("tiny", "cpu") == "least cosine 1.00000"
    monkeypatch.setattr(smoke_checks, "LEAST_COSINE", 1.01)
    with refuses(DeviceError, "device.failed", "stream"):
        stream_test("tiny", "cpu")
