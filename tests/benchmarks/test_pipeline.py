"""`medfocus-bench pipeline` on a small engine: rows, trace, picture."""

import json
from pathlib import Path

import pytest

from medfocus.benchmarks.command import main
from medfocus.benchmarks.pipeline import GRAPHS, ONE_BY_ONE, STREAM
from medfocus.benchmarks.trace import draw_trace, write_trace
from medfocus.engine.stats import Span

SPANS = [
    Span("read", "host_0", 10.0, 10.1),
    Span("prepare", "host_0", 10.1, 10.2, batch=0, slot=0),
    Span("segment", "segment", 10.2, 10.7, 0.0, 4, 0, 0),
    Span("prepare", "host_1", 10.3, 10.4, batch=1, slot=1),
    Span("classify", "classify", 10.7, 10.8, 0.0, 4, 0, 0),
    Span("segment", "segment", 10.7, 11.2, 0.3, 4, 1, 1),
    Span("answer", "answer", 10.8, 10.81, 0.0, 4, 0, 0),
]


@pytest.mark.slow
def test_the_command_measures_and_writes(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, plot, out = (tmp_path / name for name in ("t.json", "p.png", "o.json"))
    options = ["--images", "12", "--rounds", "2", "--backend", "torch"]
    files = ["--trace", str(trace), "--plot", str(plot), "--json", str(out)]
    for _ in range(2):
        assert main(["pipeline", str(engine_directory), *options, *files]) == 0
    runs = json.loads(out.read_text())
    assert len(runs) == 2
    rows = runs[1]["rows"]
    assert [row["contender"] for row in rows] == [GRAPHS, STREAM, ONE_BY_ONE]
    assert rows[0]["ratio"] == [1, 1, 1]
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["same_label"] == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    done = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    segmented = [event["args"]["images"] for event in done if event["name"].startswith("segment")]
    assert sum(segmented) == 12
    assert "images a second" in capsys.readouterr().out


def test_what_cannot_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipeline", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err.replace("\n", "")


def test_a_trace_keeps_times_lanes_and_slots(tmp_path: Path) -> None:
    write_trace(SPANS, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {
        (event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event["ph"] == "M"
    }
    assert names[1, 0] == "host_0"
    assert names[2, 1] == "slot 1"
    second = next(event for event in events if event["name"] == "segment 1")
    assert names[1, second["tid"]] == "segment"
    assert (second["ts"], second["dur"]) == pytest.approx((700_000, 500_000))
    assert second["args"] == {"images": 4, "waited_us": 300_000}
    stay = next(event for event in events if event["name"] == "batch 0")
    assert (stay["pid"], stay["tid"]) == (2, 0)
    assert (stay["ts"], stay["dur"]) == pytest.approx((100_000, 710_000))
    draw_trace(SPANS, tmp_path / "trace.png", "title")
    assert (tmp_path / "trace.png").stat().st_size > 5000
