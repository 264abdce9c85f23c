"""The part `export`: what was exported, its seconds and its parity as a row."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from medfocus.benchmarks.bench.parts import export as module
from medfocus.benchmarks.bench.parts.export import export_part
from medfocus.errors import InputError
from tests.benchmarks.bench.rows import HERE


def test_an_export_is_a_row(
    engine_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def measure(arguments: list[str]) -> dict[str, Any]:
        asked.append(arguments)
        shutil.copytree(engine_directory, arguments[-1])
        return {"status": 0, "seconds": 40.0, "peak_gb": 1.5}

    monkeypatch.setattr(module, "measure", measure)
    directory, row = export_part("tiny", tmp_path, HERE, lambda what: None)
    assert asked == [["--preset", "tiny", "--fp32", "-o", str(tmp_path / "tiny")]]
    assert directory.path == tmp_path / "tiny"
    assert (row.p50_ms, row.peak_memory, row.part) == (40_000, 1536, "export")
    assert row.measured


def test_an_export_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"status": 2, "error": "error: no space left", "seconds": 1.0, "peak_gb": 1.0}
    monkeypatch.setattr(module, "measure", lambda arguments: failed)
    with pytest.raises(InputError, match="tiny: was not exported: error: no space left"):
        export_part("tiny", tmp_path, HERE, lambda what: None)
    with pytest.raises(InputError, match="none"):
        export_part("none", tmp_path, HERE, lambda what: None)


def test_weights_that_are_not_shipped_are_made(
    engine_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, bool]] = []
    asked: list[str] = []

    def write(name: str, folder: Path, regions: bool) -> None:
        made.append((name, regions))
        (folder / "text").mkdir(parents=True)

    def measure(arguments: list[str]) -> dict[str, Any]:
        asked.extend(arguments)
        shutil.copytree(engine_directory, arguments[-1])
        return {"status": 0, "seconds": 1.0, "peak_gb": 1.0}

    monkeypatch.setattr(module.random_weights, "write", write)
    monkeypatch.setattr(module, "measure", measure)
    export_part("biomed", tmp_path, HERE, lambda what: None)
    assert made == [("biomed", True)]
    for option in ("--clip-weights", "--sam2-weights", "--classes", "--text-folder"):
        assert asked[asked.index(option) + 1].startswith(str(tmp_path / "weights"))
