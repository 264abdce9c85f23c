"""`medfocus-bench models`: what it writes and says, and what it does when it cannot go on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medfocus.benchmarks import models_command
from medfocus.benchmarks.command import main
from medfocus.benchmarks.rows import Row, read_json, write_json
from medfocus.benchmarks.timing import Ratio


@pytest.mark.slow
def test_it_measures_writes_and_compares(
    exported_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "rows.json", tmp_path / "rows.csv"
    options = ["models", "--engine", str(exported_engine), "--batch", "2", "--seconds", "0.1"]
    assert main([*options, "--json", str(out), "--csv", str(table)]) == 0
    rows = read_json(out)
    assert {row.what for row in rows} == {"segmenter", "classifier", "both models"}
    assert {row.contender for row in rows} == {
        "sam2 + open_clip",
        "medfocus, onnxruntime",
        "medfocus, openvino",
        "medfocus, torch",
    }
    assert all(row.measured and row.accuracy is not None for row in rows)
    assert table.read_text().count("\n") == 1 + len(rows)
    assert "images/s" in capsys.readouterr().out

    # Whoever was ten times as fast before has become slower.
    fast = [
        row if row.ratio is None else replace(row, ratio=Ratio(1e3, 990.0, 1010.0)) for row in rows
    ]
    write_json(tmp_path / "old.json", fast)
    assert main([*options, "--compare", str(tmp_path / "old.json")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "models, classifier, medfocus, openvino, fp32, batch 2: " in said
    assert "slower beside sam2 + open_clip, fp32" in said


@pytest.mark.slow
def test_interrupted_it_writes_what_it_has(
    exported_engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = models_command.model_rows

    def cut_off(*arguments: Any) -> Iterator[Row]:
        rows = whole(*arguments)
        yield next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(models_command, "model_rows", cut_off)
    out = tmp_path / "rows.json"
    options = ["models", "--engine", str(exported_engine), "--batch", "1", "--seconds", "0.1"]
    assert main([*options, "--json", str(out)]) == 130
    assert len(read_json(out)) == 1
    assert "Interrupted; rows measured until then: 1" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text("{}")
    for options in (
        ["--engine", str(tmp_path / "none")],
        ["--engine", str(tmp_path), "--compare", str(tmp_path / "old.json")],
    ):
        assert main(["models", *options]) == 2
        error = capsys.readouterr().err
        assert str(tmp_path) in error.replace("\n", "")
        assert "Traceback" not in error
    for wrong in (["--seconds", "nan"], ["--seconds", "-1"], ["--batch", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main(["models", "--engine", str(tmp_path), *wrong])
        assert stopped.value.code == 2
