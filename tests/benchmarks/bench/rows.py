"""Rows and options of `medfocus-bench`, for the tests of what is done with them."""

from dataclasses import replace
from typing import Any

import numpy as np

from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio, ratio
from medfocus.engine.artifact.directory import EngineDirectory

HERE = Environment(
    device=None,
    driver="none",
    processor="an x86",
    threads=2,
    python="3.12.1",
    versions={"torch": "2.11", "triton": "3.6", "medfocus": "1.0"},
    revision="abc+",
    date="2026-11-24 00:00",
)
ROW = BenchRow(
    part="models",
    what="classifier",
    implementation="medfocus, openvino",
    precision="fp32",
    batch=8,
    setting="",
    environment=HERE,
    rounds=30,
    images_per_second=50.0,
    p50_ms=160.0,
    p95_ms=171.0,
    peak_memory=800.0,
    roofline_share=0.4,
    accuracy=1.0,
    accuracy_of="cosine",
    baseline="open_clip",
    ratio=Ratio(2.0, 1.95, 2.05),
    noise=Ratio(1.0, 0.99, 1.01),
    ratios={"autocast, bf16": Ratio(1.5, 1.45, 1.55)},
)


def row(**changes: Any) -> BenchRow:
    """The row with other values."""
    return replace(ROW, **changes)


def options_for(*engines: EngineDirectory, **changes: Any) -> BenchOptions:
    """Options that take little time, with upstream as the baseline."""
    options = BenchOptions(
        engines=engines,
        backends=None,
        baselines=("upstream",),
        device="cpu",
        batches=(1,),
        images=1,
        seconds=0.1,
        environment=HERE,
        report=lambda line: None,
    )
    return replace(options, **changes)


def timed(random: np.random.Generator, slower: float = 1.0, rounds: int = 30) -> Ratio:
    """The ratio to a baseline half as fast, on a machine with drift and outliers."""
    drift = np.exp(np.cumsum(random.normal(0, 0.02, rounds)))

    def seconds(each: float) -> list[float]:
        outlier = 1 + (random.random(rounds) < 0.1) * random.exponential(0.5, rounds)
        return list(each * drift * outlier * random.lognormal(0, 0.03, rounds))

    return ratio(seconds(2.0), seconds(slower))
