"""The pipeline's figures for a GPU: what is made of rates and spans, and a run on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest

from medfocus.benchmarks.gpu_pipeline import AT_MOST, FLOOR, GOALS, goals, idle_share, main
from medfocus.engine.stats import Span


def span(stage: str, begun: float, ended: float) -> Span:
    return Span(stage, stage, begun, ended)


def test_idle_is_what_neither_stream_filled() -> None:
    """From 1 to 9 of 0 to 10: streams overlap from 3 to 4, and rest from 6 to 7."""
    spans = [
        span("segment", 0, 4),
        span("classify", 3, 6),
        span("prepare", 6, 7),
        span("segment", 7, 10),
    ]
    assert idle_share(spans) == pytest.approx(1 / 8)
    assert idle_share([span("segment", 0, 10), span("classify", 2, 3)]) == 0


def test_goals_are_ratios_round_by_round() -> None:
    rates = {
        "stream": np.array([100.0, 200.0, 300.0]),
        "segmenter alone": np.array([200.0, 200.0, 200.0]),
    }
    found = goals(rates, 1.2, 0.1)
    assert list(found) == list(GOALS)
    assert set(AT_MOST) <= set(GOALS)
    assert list(found.values()) == [1.0, None, None, 200 / FLOOR, 1.2, 0.1]


@pytest.mark.slow
def test_the_program_runs_through_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--preset", "tiny", "--images", "4", "--rounds", "1"]
    main([str(tmp_path / "out.json"), *options])
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["images_per_second"]) == {"stream", "segmenter alone"}
    assert found["latency_ms"] > 0
    assert found["graphs_ms"] > 0
    assert "stream / upstream eager fp32: not measured (>= 5.0)" in capsys.readouterr().out
