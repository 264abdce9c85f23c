"""The pipeline's measurement as far as it runs without a GPU, and what it leaves when stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medfocus.benchmarks.gpu.pipeline.engine import MeasuredEngine, common_graphs
from medfocus.benchmarks.gpu.pipeline.goals import GOALS, SEGMENTER
from medfocus.benchmarks.gpu.pipeline.measure import (
    ROUND_SECONDS,
    describe_graphs,
    images_per_round,
    interleaved_rates,
    main,
    run_steps,
)
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers


def blank() -> dict[str, Any]:
    return {"preset": "base", "comparisons": [], "problems": []}


def test_each_step_is_written_before_the_next_begins(tmp_path: Path) -> None:
    """The second fails; the third is stopped, and what was measured by then is in the file."""
    out, found, seen = tmp_path / "out.json", blank(), []

    def first() -> None:
        seen.append(json.loads(out.read_text()))
        found["latency_ms"], found["graphs_ms"] = 2.0, 1.0

    def failing() -> None:
        seen.append(json.loads(out.read_text()))
        raise RuntimeError("no kernel\nand more")

    def stopped() -> None:
        seen.append(json.loads(out.read_text()))
        raise KeyboardInterrupt

    steps = {"a": first, "b": failing, "c": stopped, "d": stopped}
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps, found, out)
    assert [before["not_reached"] for before in seen] == [[*"abcd"], [*"bcd"], [*"cd"]]
    left = json.loads(out.read_text())
    assert left == seen[2]
    assert left["goals"]["latency of one image / its graphs' GPU time"] == 2.0
    assert left["problems"] == ["b: RuntimeError: no kernel"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_a_round_lasts_long_enough_that_filling_the_pipeline_does_not_count() -> None:
    assert images_per_round(1500.0, 32, 4096) == 4096
    assert images_per_round(100.0, 32, 4096) == 100 * ROUND_SECONDS // 32 * 32
    assert images_per_round(1.0, 32, 4096) == 32
    assert images_per_round(1500.0, 4, 4) == 4


def test_rates_are_measured_in_turns_after_a_warm_up() -> None:
    order = []

    def run(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return float(len(order))

        return once

    rates = interleaved_rates({"a": run("a"), "b": run("b")}, 4)
    assert order[:2] == ["a", "b"]
    assert all(sorted(order[n : n + 2]) == ["a", "b"] for n in range(2, 10, 2))
    assert sorted(rates["a"] + rates["b"]) == [3, 4, 5, 6, 7, 8, 9, 10]


def buffers(*graphs: tuple[str, int]) -> TorchBatchBuffers:
    made = object.__new__(TorchBatchBuffers)
    made._captured = dict.fromkeys(graphs)  # type: ignore[assignment]
    return made


ALL = [("classify", 1), ("classify", 32), ("segment", 1), ("segment", 32)]


def test_a_graph_that_some_buffers_lack_is_a_problem_on_a_gpu() -> None:
    assert common_graphs([buffers(*ALL), buffers(*ALL)]) == ALL
    assert common_graphs([buffers(*ALL), buffers(*ALL[1:])]) == ALL[1:]
    assert common_graphs([buffers(*ALL), buffers()]) == []
    engine: Any = SimpleNamespace(manifest=SimpleNamespace(buckets=(1, 32)))
    for graphs, device, problems in ((ALL, "cuda", 0), (ALL[:3], "cuda", 1), ([], "cpu", 0)):
        found = blank()
        describe_graphs(found, MeasuredEngine(engine, engine, buffers(), graphs), device)
        assert found["cuda_graphs"] == [list(graph) for graph in graphs]
        assert len(found["problems"]) == problems
        assert all("segment with 32" in problem for problem in found["problems"])


@pytest.mark.slow
def test_the_program_runs_through_without_a_gpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--preset", "tiny", "--images", "4", "--rounds", "2"]
    assert main([str(tmp_path / "out.json"), *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [each["baseline"] for each in found["comparisons"]] == [SEGMENTER]
    assert (
        len(found["comparisons"][0]["stream"])
        == len(found["comparisons"][0]["images_per_second"])
        == 2
    )
    assert (found["images"], found["batch"], found["cuda_graphs"]) == (4, 4, [])
    assert found["latency_ms"] > 0
    assert found["graphs_ms"] > 0
    assert found["not_reached"] == found["problems"] == []
    assert set(found["goals"]) == set(GOALS)
    assert found["environment"]["versions"]["torch"] == torch.__version__
