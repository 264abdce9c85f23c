"""The part `pipeline` on a small engine: rows, trace, picture."""

import json
from pathlib import Path

import pytest

from medfocus.benchmarks.bench.command import main
from medfocus.benchmarks.bench.parts import pipeline as pipeline_part
from medfocus.benchmarks.bench.parts.pipeline import (
    GRAPHS,
    ONE_BY_ONE,
    STAGE,
    STREAM,
    UPSTREAM_ONE_BY_ONE,
    WHOLE,
)
from medfocus.benchmarks.bench.report.rows import read_json
from medfocus.benchmarks.bench.report.trace import draw_trace, write_trace
from medfocus.engine.runtime.metrics import STAGES, Span
from medfocus.errors import InputError

SPANS = [
    Span("read", "host_0", 10.0, 10.1),
    Span("prepare", "host_0", 10.1, 10.2, batch=0, buffers=0),
    Span("segment", "segment", 10.2, 10.7, 0.0, 4, 0, 0),
    Span("prepare", "host_1", 10.3, 10.4, batch=1, buffers=1),
    Span("classify", "classify", 10.7, 10.8, 0.0, 4, 0, 0),
    Span("segment", "segment", 10.7, 11.2, 0.3, 4, 1, 1),
    Span("answer", "answer", 10.8, 10.81, 0.0, 4, 0, 0),
]


@pytest.mark.slow
def test_implementations_and_stages_are_rows(
    engine_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_part, "SINGLE", 4)
    trace, out = tmp_path / "trace.json", tmp_path / "rows.json"
    options = ["--images", "8", "--seconds", "0.1", "--backends", "torch"]
    files = ["--trace", str(trace), "--plot", str(tmp_path / "plots"), "--json", str(out)]
    assert main(["pipeline", "--engine", str(engine_directory), *options, *files]) == 0
    rows = read_json(out)
    whole = [row for row in rows if row.what == WHOLE]
    ours = [f"medfocus, torch, {name}" for name in (GRAPHS, STREAM)]
    assert [row.implementation for row in whole] == [*ours, ONE_BY_ONE, UPSTREAM_ONE_BY_ONE]
    assert [row.baseline for row in whole] == ["", GRAPHS, GRAPHS, GRAPHS]
    assert [row.accuracy_of for row in whole] == ["label", "label", "label", "cosine"]
    assert [row.batch for row in whole] == [8, 8, 4, 4]
    for row in whole:
        assert row.p50_ms is not None
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.p50_ms, rel=1e-3)
        assert row.accuracy == pytest.approx(1, abs=0 if row.accuracy_of == "label" else 1e-6)
    stages = {row.setting: row for row in rows if row.what == STAGE}
    assert tuple(stages) == STAGES
    assert (stages["read"].batch, stages["read"].rounds) == (1, 8)
    segmented = stages["segment"]
    assert segmented.rounds >= -(-8 // segmented.batch)
    assert (tmp_path / "plots/schedule.png").read_bytes().startswith(b"\x89PNG")
    done = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    segments = [event for event in done if event["name"].startswith("segment")]
    assert sum(event["args"]["images"] for event in segments) == 8
    seconds = 1e-6 * sum(event["dur"] for event in segments)
    assert segmented.images_per_second == pytest.approx(8 / seconds, rel=1e-3)


@pytest.mark.slow
def test_upstream_that_cannot_be_loaded_does_not_affect_the_others(
    engine_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("the engine's head", "has visual prompts", "leave the baselines out")

    monkeypatch.setattr(pipeline_part, "_upstream", refuse)
    out = tmp_path / "rows.json"
    options = ["--images", "2", "--seconds", "0.1", "--backends", "torch", "--json", str(out)]
    main(["pipeline", "--engine", str(engine_directory), *options])
    measured = {row.implementation: row.measured for row in read_json(out) if row.what == WHOLE}
    assert measured.pop(UPSTREAM_ONE_BY_ONE) is False
    assert len(measured) == 3
    assert all(measured.values())


def test_a_trace_keeps_times_lanes_and_buffers(tmp_path: Path) -> None:
    write_trace(SPANS, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {
        (event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event["ph"] == "M"
    }
    assert names[1, 0] == "host_0"
    assert names[2, 1] == "buffers 1"
    second = next(event for event in events if event["name"] == "segment 1")
    assert names[1, second["tid"]] == "segment"
    assert (second["ts"], second["dur"]) == pytest.approx((700_000, 500_000))
    assert second["args"] == {"images": 4, "waited_us": 300_000}
    stay = next(event for event in events if event["name"] == "batch 0")
    assert (stay["pid"], stay["tid"]) == (2, 0)
    assert (stay["ts"], stay["dur"]) == pytest.approx((100_000, 710_000))
    draw_trace(SPANS, tmp_path / "trace.png", "title")
    assert (tmp_path / "trace.png").stat().st_size > 5000
