"""The part `export`: what was exported, its seconds and its parity as a row."""

import shutil
from pathlib import Path

import pytest

from medfocus.benchmarks.bench import random_weights
from medfocus.benchmarks.bench.parts import export as module
from medfocus.benchmarks.bench.parts.export import ExportRun, export_part, run_export
from medfocus.errors import MedfocusError
from tests.benchmarks.bench.rows import HERE
from tests.errors import refuses


@pytest.fixture
def asked(engine_directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of the last export, which gives a small engine."""
    arguments: list[str] = []

    def run_export(given: list[str]) -> ExportRun:
        arguments[:] = given
        shutil.copytree(engine_directory, given[-1])
        return ExportRun(40.0, 1536.0, None)

    monkeypatch.setattr(module, "run_export", run_export)
    return arguments


def test_an_export_is_a_row(asked: list[str], tmp_path: Path) -> None:
    directory, row = export_part("tiny", tmp_path, HERE, lambda line: None)
    assert asked == ["--preset", "tiny", "--fp32", "-o", str(tmp_path / "tiny")]
    assert directory.path == tmp_path / "tiny"
    assert (row.p50_ms, row.peak_memory, row.part) == (40_000, 1536, "export")
    assert row.measured


def test_an_export_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ExportRun(1.0, 1.0, "error: no space left")
    monkeypatch.setattr(module, "run_export", lambda arguments: failed)
    with refuses(MedfocusError, "bench.export_failed", "tiny") as caught:
        export_part("tiny", tmp_path, HERE, lambda line: None)
    assert "error: no space left" in str(caught.value)
    with pytest.raises(MedfocusError, match="none"):
        export_part("none", tmp_path, HERE, lambda line: None)
    monkeypatch.undo()
    error = run_export(["--preset", "none", "-o", str(tmp_path / "none")]).error
    assert error is not None
    assert "none" in error


def test_weights_that_are_not_shipped_are_made(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, bool]] = []

    def write(name: str, folder: Path, regions: bool) -> None:
        made.append((name, regions))
        (folder / "text").mkdir(parents=True)
        for file in module.FILES.values():
            (folder / file).touch()

    monkeypatch.setattr(random_weights, "write", write)
    export_part("biomed", tmp_path, HERE, lambda line: None)
    assert made == [("biomed", True)]
    for option in ("--clip-weights", "--sam2-weights", "--classes", "--text-folder"):
        assert asked[asked.index(option) + 1].startswith(str(tmp_path / "weights"))
