"""The kernels' and the pipeline's goals: figures, verdicts, problems, tables, the picture."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from medfocus.benchmarks.baselines.attention import Comparison, KernelImplementation
from medfocus.benchmarks.baselines.models import OURS
from medfocus.benchmarks.bench.kernels.rows import KernelTiming, missing_row
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.benchmarks.bench.timing.device import Ceilings
from medfocus.benchmarks.gpu.goals import FLASH, GOAL_SHAPES, GOALS, goals_table, missed
from medfocus.benchmarks.gpu.pipeline import goals as of_pipeline
from medfocus.benchmarks.gpu.pipeline.goals import AT_MOST, COMPILED, EAGER, FLOP, SEGMENTER
from medfocus.benchmarks.gpu.schedule import PARTS
from tests.benchmarks.bench.rows import HERE

ON_GPU = replace(HERE, device="NVIDIA H200", driver="570.1")


def row(
    kernel: str, shape: str, name: str, median: float | None, times: float = 1.0
) -> KernelTiming:
    comparison = Comparison(kernel, {"of": shape}, torch.bfloat16, 1e12, 1e8, torch.ones, [])
    implementation = KernelImplementation(name, "", lambda: lambda: torch.ones(1))
    ceilings = Ceilings(bandwidth=4e12, matrix_rate=8e14)
    blank = missing_row(comparison, implementation, "no kernel", ceilings, ON_GPU, 3e-3)
    if median is None:
        return blank
    path = "triton" if name.startswith(OURS) else "other"
    ratio = Ratio(times, 0.99 * times, 1.01 * times)
    return blank.timed([1e-6 * median] * 50, cache="warm", path=path, ratio=ratio, noise=ratio)


def measured(
    efficient: float = 1.6, flex: float = 2.0, no_bias: float = 0.98, flash: float = 1.25
) -> list[KernelTiming]:
    """Rows that meet all goals."""
    rows = []
    for shape in GOAL_SHAPES:
        for name, times in {
            OURS: 1.0,
            f"{OURS}, no bias": no_bias,
            "SDPA efficient": efficient,
            "FlexAttention": flex,
            FLASH: flash,
            "SDPA math": 0.5,
        }.items():
            rows.append(row("masked_attention", shape, name, 100 * times, times))
        rows.append(row("masked_attention", shape, "SDPA cuDNN", None))
    for shape, times in {"stage 1": 3.0, "stage 3": 1.7}.items():
        rows.append(row("window_attention", shape, OURS, 50))
        rows.append(row("window_attention", shape, "SAM2's own", 50 * times, times))
    rows.append(row("hard focus", "ViT", OURS, 9e3))
    rows.append(row("hard focus", "ViT", f"{OURS}, all tokens", 2e4, 2.2))
    return rows


def verdicts(rows: list[KernelTiming]) -> list[str]:
    return [goal.verdict(rows) for goal in GOALS]


def test_verdicts_of_kernels() -> None:
    """The fastest baseline counts, but not plain math; and the worst shape."""
    assert verdicts(measured()) == ["met"] * 9
    assert verdicts(measured(efficient=3.0, flex=1.2))[:3] == ["met", "not met", "met"]
    assert verdicts(measured(flash=1.15))[3:6] == ["not met", "met", "met"]
    value, note = GOALS[0].figure(measured(flex=1.2))
    assert value is not None
    assert value.median == pytest.approx(1.2)
    assert note == "FlexAttention; without SDPA cuDNN"
    assert [verdicts(measured(no_bias=x))[6] for x in (0.96, 0.94)] == ["met", "not met"]
    rows = [*measured(), row("window_attention", "stage 4", OURS, 9)]
    rows.append(row("window_attention", "stage 4", "SAM2's own", 12, 1.4))
    assert verdicts(rows)[7] == "not met"


def test_missing_rows_are_not_measured() -> None:
    assert verdicts([]) == ["not measured"] * 9
    without = [r for r in measured() if r.kernel != "hard focus" and "N577" not in r.shape]
    at_longest = ["met", "met", "not measured"]
    expected = [*at_longest, *at_longest, "not measured", "met", "not measured"]
    assert verdicts(without) == expected
    cold = [replace(r, cache="cold") for r in measured() if r.measured]
    assert verdicts(cold) == ["not measured"] * 9
    fallback = [replace(r, path="torch") if r.implementation == OURS else r for r in measured()]
    assert verdicts(fallback) == ["not measured"] * 9


def test_a_goal_that_is_not_met_is_a_problem_on_a_device_with_goals() -> None:
    for device in ("NVIDIA H200", "NVIDIA H100 80GB HBM3"):
        assert list(missed(measured(), device, PARTS)) == []
        assert "(this" not in goals_table([], device)
    rows = [r for r in measured(no_bias=0.9) if r.kernel != "hard focus"]
    problems = [each.partition(":")[0] for each in missed(rows, "NVIDIA H200", PARTS)]
    assert problems == ["goal not met", "goal not measured"]
    assert len(list(missed(rows, "NVIDIA H200", ["attention", "windows"]))) == 1
    assert list(missed(rows, "NVIDIA L40S", PARTS)) == list(missed(rows, None, PARTS)) == []
    table = goals_table(measured(efficient=1.1), "NVIDIA L40S")
    assert "(this is NVIDIA L40S)" in table
    assert "1.10 [1.09, 1.11]  not met" in table


# The pipeline's.


def compared(baseline: str, stream: list[float], theirs: list[float]) -> dict[str, Any]:
    return {"baseline": baseline, "stream": stream, "images_per_second": theirs}


def found(**more: Any) -> dict[str, Any]:
    segmenter = compared(SEGMENTER, [100.0, 200.0, 300.0], [200.0, 200.0, 200.0])
    return {"preset": "base", "matrix_rate": 1e14, "comparisons": [segmenter], **more}


def test_goals_are_ratios_round_by_round() -> None:
    assert set(AT_MOST) <= set(of_pipeline.GOALS)
    values = of_pipeline.goals(found())
    assert list(values) == list(of_pipeline.GOALS)
    assert list(values.values()) == [1.0, None, None, 200 * FLOP / 1e14, None, None]
    for unknown in ({"preset": "tiny"}, {"matrix_rate": None}):
        assert of_pipeline.goals(found(**unknown))["stream / compute floor"] is None
    assert set(of_pipeline.goals({"preset": "base", "comparisons": []}).values()) == {None}


def test_upstream_counts_at_its_own_best_batch() -> None:
    given = found(latency_ms=12.0, graphs_ms=10.0, idle={"share": 0.1})
    given["comparisons"] += [
        compared(EAGER, [100.0], [10.0]),
        compared(EAGER, [100.0], [25.0]),
        compared(COMPILED, [100.0], [50.0]),
        compared(COMPILED, [100.0], [40.0]),
    ]
    assert list(of_pipeline.goals(given).values()) == [1.0, 4.0, 2.0, 200 * FLOP / 1e14, 1.2, 0.1]


def test_what_failed_was_not_reached_or_was_missed_is_a_problem() -> None:
    values: dict[str, float | None] = {**of_pipeline.GOALS, "idle share of the GPU": 0.2}
    values[f"stream / {COMPILED}"] = None
    given = {"problems": ["latency: why"], "not_reached": ["idle share"], "goals": values}
    expected = ["pipeline: latency: why", "pipeline: idle share: not reached"]
    assert list(of_pipeline.pipeline_problems(given, "NVIDIA L40S")) == expected
    assert list(of_pipeline.pipeline_problems(given, "NVIDIA H200")) == [
        *expected,
        f"goal not measured: stream / {COMPILED}",
        "goal not met: idle share of the GPU",
    ]
    assert list(of_pipeline.pipeline_problems({}, "NVIDIA H200")) == []


def test_the_pipelines_table() -> None:
    goals = of_pipeline.GOALS
    lines = of_pipeline.pipeline_table({"goals": goals | {"idle share of the GPU": 0.2}})
    _, first, *_, last = lines.splitlines()
    assert " ".join(first.split()) == f"stream / {SEGMENTER} ≥ 0.95 0.950 met"
    assert " ".join(last.split()) == "idle share of the GPU ≤ 0.05 0.200 not met"
    for name, limit in goals.items():
        better = 0.9 if name in AT_MOST else 1.1
        given = [limit, limit * better, limit / better, None]
        judged = [of_pipeline.verdict(name, value) for value in given]
        assert judged == ["met", "met", "not met", "not measured"]
    records: list[dict[str, dict[str, float | None]]] = [{}, {"goals": dict.fromkeys(goals)}]
    for record in records:
        assert of_pipeline.pipeline_table(record).count("not measured") == len(goals)
