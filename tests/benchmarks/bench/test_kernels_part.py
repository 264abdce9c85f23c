"""Kernels' rows in the columns of `medfocus-bench`."""

from dataclasses import replace

import pytest

from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.parts import kernels as module
from medfocus.benchmarks.bench.parts.kernels import kernels_part
from medfocus.benchmarks.gpu.rows import MEASURED
from medfocus.benchmarks.gpu.rows import KernelTiming as KernelRow
from tests.benchmarks.bench.rows import HERE

FOUND = KernelRow(
    kernel="masked_attention",
    shape="B8 H12 N197 D64",
    dtype="bfloat16",
    contender="PyTorch",
    layout="",
    status=MEASURED,
    flop=1e9,
    bytes=1e6,
    predicted_us=10.0,
    bandwidth_ceiling=4e12,
    matrix_ceiling=7e14,
    device="a GPU",
    driver="1",
    torch="2.11",
    triton="3.6",
    revision="abc",
    date="2026-11-24",
    cache="warm",
    rounds=50,
    median_us=40.0,
    p90_us=50.0,
    roofline_share=0.25,
    error=0.001,
    ratio=2.0,  # it takes twice our time
    ratio_low=1.6,
    ratio_high=2.5,
    noise_low=1.01,
    noise_high=1.02,
)


def request_on(device: str) -> BenchOptions:
    return BenchOptions(
        (), None, (), device, (1,), 1, 1.0, HERE, say=lambda what: None
    )  # fmt: skip


def test_on_a_cpu_it_says_why_not() -> None:
    (row,) = kernels_part(request_on("cpu"))
    assert not row.measured
    assert "GPU" in row.status


def test_a_kernels_row_keeps_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Built:
        kernel = "masked_attention"

    ours = replace(FOUND, contender="medfocus", ratio=1.0, ratio_low=1.0, ratio_high=1.0)
    cold = replace(FOUND, cache="cold")
    refused = replace(FOUND, status="not measured: too old", cache="", median_us=None, ratio=None)

    def fail() -> Built:
        raise RuntimeError("out of memory\n...")

    monkeypatch.setattr(module, "measure_ceilings", lambda: None)
    monkeypatch.setattr(module, "comparisons", lambda: {"attention": [fail, Built]})
    monkeypatch.setattr(module, "compare", lambda *_: iter([ours, FOUND, cold, refused]))
    failed, first, row, missing = kernels_part(request_on("cuda"))
    assert failed.status == "RuntimeError: out of memory"
    assert missing.status == "not measured: too old"
    assert (first.peer, first.ratio) == ("", None)
    assert (row.p50_ms, row.p95_ms, row.rounds) == (0.04, None, 50)
    assert row.too_noisy
    assert row.peer == "medfocus"
    assert row.ratio == pytest.approx((0.5, 0.4, 0.625))
    assert row.accuracy == pytest.approx(0.999)
    assert row.setting == "B8 H12 N197 D64"
