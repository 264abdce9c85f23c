"""Kernels compared on a clock in place of a GPU, and their rows in `medfocus-bench`."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation, masked
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels import compare as compare_module
from medfocus.benchmarks.bench.kernels.compare import compare, relative_error
from medfocus.benchmarks.bench.kernels.rows import KernelTiming, missing_row
from medfocus.benchmarks.bench.parts import kernels as module
from medfocus.benchmarks.bench.parts.kernels import kernels_part
from medfocus.benchmarks.bench.timing.clock import Ratio, interleave
from medfocus.benchmarks.bench.timing.device import Ceilings, calls_per_replay
from tests.benchmarks.bench.rows import HERE, options_for

CEILINGS = Ceilings(bandwidth=4e12, matrix_rate=8e14)
ON_GPU = replace(HERE, device="NVIDIA H200", driver="570.1")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are the GPU's")


class Clock:
    """A device that is busy for as long as the work on it says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1

    def implementation(
        self, name: str, seconds: float, answer: float = 1.0, layout: str = ""
    ) -> KernelImplementation:
        def run() -> Tensor:
            self.now += seconds
            return torch.full((2,), answer)

        path = "triton" if name == OURS else "other"
        return KernelImplementation(name, layout, lambda: run, path=lambda: path)


def refusing() -> Callable[[], Tensor]:
    raise RuntimeError("No available kernel. Aborting\nand more")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def capture(function: Callable[[], object], calls: int) -> Callable[[], None]:
        def replay() -> None:
            for _ in range(calls):
                function()

        return replay

    def in_turns(
        runs: dict[str, Callable[[], object]],
        rounds: int,
        before: Callable[[], object] | None = None,
    ) -> dict[str, list[float]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda: clock.now)
            return interleave(runs, rounds, before or (lambda: None))

    monkeypatch.setattr(compare_module, "capture", capture)
    monkeypatch.setattr(compare_module, "interleave_on_device", in_turns)
    monkeypatch.setattr(compare_module, "flusher", lambda: clock.flush)
    return clock


def comparison_of(*implementations: KernelImplementation) -> Comparison:
    return Comparison(
        kernel="masked_attention",
        shape={"B": 8, "N": 197},
        dtype=torch.bfloat16,
        flop=8e9,
        bytes=16e6,
        exact=lambda: torch.ones(2).double(),
        implementations=[*implementations],
    )


def test_rows_of_a_comparison(clock: Clock) -> None:
    comparison = comparison_of(
        clock.implementation(OURS, 2e-5),
        clock.implementation("other", 6e-5, layout="slow"),
        clock.implementation("other", 3e-5, layout="fast"),
        KernelImplementation("other", "refused", refusing),
        clock.implementation("wrong", 1e-6, answer=1.2),
        replace(clock.implementation("no bias", 1e-5, answer=0.5), exact=lambda: torch.ones(2) / 2),
        KernelImplementation("absent", "any", refusing),
    )
    rows = {(row.implementation, row.cache): row for row in compare(comparison, CEILINGS, ON_GPU)}
    assert set(rows) == {
        *((name, cache) for name in (OURS, "other", "no bias") for cache in ("warm", "cold")),
        *((name, "") for name in ("wrong", "absent")),
    }
    # Before each run with a cold cache: of ours, ours again and the two others.
    assert clock.flushes == 4 * compare_module.ROUNDS["cold"]
    assert "wrong, error 0.2" in rows["wrong", ""].status
    assert rows["absent", ""].status.endswith("RuntimeError: No available kernel. Aborting")
    ours, other = rows[OURS, "warm"], rows["other", "warm"]
    assert other.layout == "fast"
    assert (ours.path, other.path) == ("triton", "other")
    assert ours.method == "CUDA graph of 50"
    assert rows[OURS, "cold"].method == "CUDA graph of 1"
    assert ours.median_us == pytest.approx(20)
    assert other.ratio == pytest.approx((1.5, 1.5, 1.5))
    assert ours.noise == pytest.approx((1, 1, 1))
    # 8e9 FLOP at 8e14 a second are 10 µs, 16e6 bytes at 4e12 only 4.
    assert ours.predicted_us == pytest.approx(10)
    assert ours.roofline_share == pytest.approx(0.5)
    assert ours.error == 0
    assert (ours.shape, ours.dtype, ours.environment) == ("B8 N197", "bfloat16", ON_GPU)
    assert str(ours).endswith("20.0 µs, 1.00 of ours, 50% of the roofline, error 0.0e+00")


def test_replays_and_relative_errors_by_hand() -> None:
    assert [calls_per_replay(s) for s in (1e-6, 1e-5, 3e-4, 1.0)] == [100, 100, 3, 1]
    exact = torch.tensor([3.0, 4.0]).double()
    assert relative_error(torch.tensor([3.0, 4.5, 99.0]), exact) == pytest.approx(0.1)
    assert relative_error(torch.tensor([float("nan"), 4.0]), exact) == float("inf")


@pytest.mark.gpu
@needs_gpu
def test_a_comparison_on_the_gpu() -> None:
    comparison = masked(8, 4, 197, 64, torch.bfloat16, "cuda")
    names = (OURS, "SDPA efficient", "SDPA math")
    keep = [each for each in comparison.implementations if each.name in names]
    rows = list(compare(replace(comparison, implementations=keep), CEILINGS, ON_GPU))
    measured = {(row.implementation, row.cache) for row in rows if row.measured}
    assert measured >= {(OURS, "warm"), (OURS, "cold")}
    assert all(row.path == "triton" for row in rows if row.implementation == OURS)


def test_on_a_cpu_there_is_one_row_without_figures() -> None:
    (row,) = kernels_part(options_for())
    assert not row.measured
    assert "GPU" in row.status


def test_a_kernels_row_keeps_its_figures(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Comparison:
        raise RuntimeError("out of memory\n...")

    other = KernelImplementation("other", "", refusing)
    blank = missing_row(comparison_of(other), other, "too old", CEILINGS, ON_GPU, 0.001)
    noise, slower = Ratio(1.01, 1.01, 1.02), Ratio(2.0, 1.6, 2.5)  # it takes twice our time
    found = blank.timed([4e-5] * 50, cache="warm", ratio=slower, noise=noise)
    ours = replace(found, implementation=OURS)
    rows: list[KernelTiming] = [ours, found, replace(found, cache="cold"), blank]
    monkeypatch.setattr(module, "measure_ceilings", lambda: None)
    builds = {"attention": [fail, lambda: comparison_of(other)]}
    monkeypatch.setattr(module, "comparisons", lambda: builds)
    monkeypatch.setattr(module, "compare", lambda *_: iter(rows))
    failed, first, row, missing = kernels_part(options_for(device="cuda"))
    assert failed.status == "RuntimeError: out of memory"
    assert missing.status == "not measured: too old"
    assert (first.baseline, first.ratio) == ("", None)
    assert row.p50_ms == pytest.approx(0.04)
    assert (row.p95_ms, row.rounds) == (None, 50)
    assert row.too_noisy
    assert row.baseline == OURS
    assert row.ratio == pytest.approx((0.5, 0.4, 0.625))
    assert row.accuracy == pytest.approx(0.999)
    assert row.setting == "B8 N197"
