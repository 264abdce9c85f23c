"""What is made of the pipeline's races: ratios, verdicts, problems, a table."""

from typing import Any

import pytest

from medfocus.benchmarks.gpu.pipeline_goals import (
    ALONE,
    AT_MOST,
    COMPILED,
    EAGER,
    FLOOR,
    GOALS,
    goals,
    pipeline_problems,
    pipeline_table,
    verdict,
)


def race(peer: str, stream: list[float], theirs: list[float]) -> dict[str, Any]:
    return {"peer": peer, "stream": stream, "images_per_second": theirs}


def found(**more: Any) -> dict[str, Any]:
    alone = race(ALONE, [100.0, 200.0, 300.0], [200.0, 200.0, 200.0])
    return {"preset": "base", "races": [alone], **more}


def test_goals_are_ratios_round_by_round() -> None:
    assert set(AT_MOST) <= set(GOALS)
    values = goals(found())
    assert list(values) == list(GOALS)
    assert list(values.values()) == [1.0, None, None, 200 / FLOOR, None, None]


def test_upstream_counts_at_its_own_best_batch() -> None:
    given = found(latency_ms=12.0, graphs_ms=10.0, idle={"share": 0.1})
    given["races"] += [
        race(EAGER, [100.0], [10.0]),
        race(EAGER, [100.0], [25.0]),
        race(COMPILED, [100.0], [50.0]),
        race(COMPILED, [100.0], [40.0]),
    ]
    assert list(goals(given).values()) == [1.0, 4.0, 2.0, 200 / FLOOR, 1.2, 0.1]


def test_the_floor_is_bases() -> None:
    assert goals(found() | {"preset": "tiny"})["stream / arithmetic floor"] is None


def test_nothing_measured_is_no_goal() -> None:
    assert set(goals({"preset": "base", "races": []}).values()) == {None}


def test_verdicts() -> None:
    for name, limit in GOALS.items():
        better = 0.9 if name in AT_MOST else 1.1
        assert verdict(name, limit) == "met"
        assert verdict(name, limit * better) == "met"
        assert verdict(name, limit / better) == "not met"
        assert verdict(name, None) == "not measured"


def test_what_failed_was_not_reached_or_was_missed_is_a_problem() -> None:
    values: dict[str, float | None] = {**GOALS, "idle share of the GPU": 0.2}
    values["stream / upstream compiled fp16"] = None
    given = {"problems": ["latency: why"], "not_reached": ["idle share"], "goals": values}
    expected = ["pipeline: latency: why", "pipeline: idle share: not reached"]
    assert list(pipeline_problems(given, "NVIDIA L40S")) == expected
    assert list(pipeline_problems(given, "NVIDIA H200")) == [
        *expected,
        "goal not measured: stream / upstream compiled fp16",
        "goal not met: idle share of the GPU",
    ]
    assert list(pipeline_problems({}, "NVIDIA H200")) == []


@pytest.mark.parametrize("given", [{}, {"goals": dict.fromkeys(GOALS)}])
def test_a_table_without_figures(given: dict[str, Any]) -> None:
    assert pipeline_table(given).count("not measured") == len(GOALS)


def test_the_table() -> None:
    lines = pipeline_table({"goals": GOALS | {"idle share of the GPU": 0.2}}).splitlines()
    assert " ".join(lines[1].split()) == "stream / segmenter alone ≥ 0.95 0.950 met"
    assert " ".join(lines[-1].split()) == "idle share of the GPU ≤ 0.05 0.200 not met"
    assert len(lines) == 1 + len(GOALS)
