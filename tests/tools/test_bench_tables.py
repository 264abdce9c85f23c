"""Ratios in README and docs are computed round by round, from the run's own times."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.docs import bench_tables, results


def _row(name: str, milliseconds: float, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    times = [milliseconds * (1 + number / 100) for number in range(6)]
    row = {"what": "both models", "contender": name, "precision": precision, "batch": 8}
    rate = {"images_per_second": 8000 / milliseconds, "ratio": [4.0, 3.9, 4.1]}
    place = {"environment": {"processor": "AMD EPYC (avx2 avx512f avx512_vnni avx512_bf16)"}}
    return {**row, **rate, **place, "times_ms": times, **more}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the rows of a run, below a folder of results."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results._file.cache_clear()

    def write(file: str, rows: list[dict[str, Any]]) -> None:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))

    yield write
    results._file.cache_clear()


def test_a_ratio_names_both_baselines(record: Any) -> None:
    ours = _row("medfocus, openvino", 10, "bf16")
    autocast = _row("sam2 + open_clip, autocast", 25, "bf16")
    record("cpu/tiny/models.json", [_row("sam2 + open_clip", 40), autocast, ours])
    line = bench_tables.speed("tiny, openvino, bf16, 8").splitlines()[-1]
    assert line.endswith("| 800 | 4.00 [3.90, 4.10] | 2.50 [2.50, 2.50] |")


def test_a_baseline_that_was_not_run_is_named_as_such(record: Any) -> None:
    record("cpu/tiny/models.json", [_row("medfocus, openvino", 10, "bf16")])
    assert bench_tables.speed("tiny, openvino, bf16, 8").endswith("| not measured |")


def test_each_stream_is_compared_within_its_own_run(record: Any) -> None:
    whole = {"what": "files to answers"}
    record(
        "cpu/tiny/pipeline.json",
        [
            _row("ours, Engine.stream", 10, **whole),
            _row("torch, one by one", 25, **whole),
            _row("ours, Engine.stream", 20, "bf16", batch=32, **whole),
            _row("torch, one by one", 25, **whole),
            _row("another", 1, **whole),
        ],
    )
    _, _, *lines = bench_tables.stream_speed("tiny/pipeline").splitlines()
    assert [line.split(" | ")[-1] for line in lines] == [
        "2.50 [2.50, 2.50] |",
        "5.00 [5.00, 5.00] |",
    ]
