"""The pipeline's measurement as far as it runs without a GPU, and what it leaves when stopped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medfocus.benchmarks.gpu.engine import Rig, common_graphs
from medfocus.benchmarks.gpu.pipeline import (
    ROUND_SECONDS,
    describe_graphs,
    images_a_round,
    main,
    race,
    run_stages,
)
from medfocus.benchmarks.gpu.pipeline_goals import ALONE, GOALS
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers


def blank() -> dict[str, Any]:
    return {"preset": "base", "races": [], "problems": []}


def test_each_stage_is_written_before_the_next_begins(tmp_path: Path) -> None:
    """The third is stopped as by a time limit: all that is known by then stands in the file."""
    out, found, seen = tmp_path / "out.json", blank(), []

    def stage(result: str) -> Callable[[], None]:
        def run() -> None:
            seen.append(json.loads(out.read_text()))
            found[result] = 2.0

        return run

    def stopped() -> None:
        seen.append(json.loads(out.read_text()))
        raise KeyboardInterrupt

    stages = {"a": stage("latency_ms"), "b": stage("graphs_ms"), "c": stopped, "d": stopped}
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, found, out)
    assert [before["not_reached"] for before in seen] == [[*"abcd"], [*"bcd"], [*"cd"]]
    left = json.loads(out.read_text())
    assert left == seen[2]
    assert left["goals"]["latency of one image / its graphs' GPU time"] == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_a_stage_that_fails_is_named_and_stops_no_other(tmp_path: Path) -> None:
    found = blank()

    def failing() -> None:
        raise RuntimeError("no kernel\nand more")

    def fine() -> None:
        found["graphs_ms"] = 1.0
        found["latency_ms"] = 3.0

    run_stages({"a": failing, "b": fine}, found, tmp_path / "out.json")
    left = json.loads((tmp_path / "out.json").read_text())
    assert left["problems"] == ["a: RuntimeError: no kernel"]
    assert left["not_reached"] == []
    assert left["goals"]["latency of one image / its graphs' GPU time"] == 3.0


def test_a_round_lasts_long_enough_that_filling_the_pipeline_does_not_count() -> None:
    assert images_a_round(1500.0, 32, 4096) == 4096
    assert images_a_round(100.0, 32, 4096) == 100 * ROUND_SECONDS // 32 * 32
    assert images_a_round(1.0, 32, 4096) == 32
    assert images_a_round(1500.0, 4, 4) == 4


def test_a_race_is_in_turns_after_a_run_that_does_not_count() -> None:
    order = []

    def run(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return float(len(order))

        return once

    rates = race({"a": run("a"), "b": run("b")}, 4)
    assert order[:2] == ["a", "b"]
    assert all(sorted(order[n : n + 2]) == ["a", "b"] for n in range(2, 10, 2))
    assert sorted(rates["a"] + rates["b"]) == [3, 4, 5, 6, 7, 8, 9, 10]


def buffers(*graphs: tuple[str, int]) -> TorchBatchBuffers:
    made = object.__new__(TorchBatchBuffers)
    made._captured = dict.fromkeys(graphs)  # type: ignore[arg-type]
    return made


ALL = [("classify", 1), ("classify", 32), ("segment", 1), ("segment", 32)]


def test_graphs_that_one_slot_lacks_are_not_there() -> None:
    assert common_graphs([buffers(*ALL), buffers(*ALL)]) == ALL
    assert common_graphs([buffers(*ALL), buffers(*ALL[1:])]) == ALL[1:]
    assert common_graphs([buffers(*ALL), buffers()]) == []


@dataclass
class OfManifest:
    buckets: tuple[int, ...] = (1, 32)

    @property
    def manifest(self) -> "OfManifest":
        return self


def test_a_graph_that_was_refused_is_a_problem_on_a_gpu() -> None:
    for graphs, problems in ((ALL, 0), (ALL[:3], 1), ([], 4)):
        found = blank()
        describe_graphs(found, Rig(OfManifest(), buffers(), graphs), "cuda")  # type: ignore[arg-type]
        assert found["cuda_graphs"] == [list(graph) for graph in graphs]
        assert len(found["problems"]) == problems
    assert found["problems"][1] == "no CUDA graph of segment with 32 images: it ran eager"
    found = blank()
    describe_graphs(found, Rig(OfManifest(), buffers(), []), "cpu")  # type: ignore[arg-type]
    assert found == blank() | {"cuda_graphs": []}


@pytest.mark.slow
def test_the_program_runs_through_without_a_gpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--preset", "tiny", "--images", "4", "--rounds", "2"]
    assert main([str(tmp_path / "out.json"), *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [race["peer"] for race in found["races"]] == [ALONE]
    assert len(found["races"][0]["stream"]) == len(found["races"][0]["images_per_second"]) == 2
    assert (found["images"], found["batch"], found["cuda_graphs"]) == (4, 4, [])
    assert found["latency_ms"] > 0
    assert found["graphs_ms"] > 0
    assert found["not_reached"] == found["problems"] == []
    assert set(found["goals"]) == set(GOALS)
    assert found["environment"]["versions"]["torch"] == torch.__version__
