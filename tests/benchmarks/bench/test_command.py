"""`medfocus-bench`: what it writes, its exit status, and what it does when it cannot go on."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medfocus import benchmarks
from medfocus.benchmarks.bench import command
from medfocus.benchmarks.bench.command import main, parser
from medfocus.benchmarks.bench.options import BenchOptions
from medfocus.benchmarks.bench.report.rows import BenchRow, read_json, write_json
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME
from medfocus.engine.artifact.writing import write_manifest
from medfocus.errors import MedfocusError
from tests.benchmarks.bench.rows import ROW, row


@pytest.mark.long
def test_it_measures_writes_draws_and_compares(
    exported_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table, plots = tmp_path / "rows.json", tmp_path / "rows.csv", tmp_path / "plots"
    options = ["models", "--engine", str(exported_engine), "--batch", "1", "--seconds", "0.1"]
    options += ["--baselines", "upstream"]
    files = ["--json", str(out), "--csv", str(table), "--plot", str(plots)]
    assert main([*options, *files]) == 0
    rows = read_json(out)
    assert {row.what for row in rows} == {"segmenter", "classifier", "both models"}
    assert {row.implementation for row in rows} == {
        "sam2 + open_clip",
        "medfocus, onnxruntime",
        "medfocus, openvino",
        "medfocus, torch",
    }
    assert all(row.measured and row.accuracy is not None for row in rows)
    assert table.read_text().count("\n") == 1 + len(rows)
    assert {file.name for file in plots.iterdir()} == {"models.png", "front.png"}
    assert "images/s" in capsys.readouterr().out

    # If all had been a thousand times as fast as the baseline, they are slower now.
    fast = [
        row if row.ratio is None else replace(row, ratio=Ratio(1e3, 990.0, 1010.0)) for row in rows
    ]
    write_json(tmp_path / "old.json", fast)
    options += ["--backends", "openvino"]
    assert main([*options, "--compare", str(tmp_path / "old.json")]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "models, classifier, medfocus, openvino, fp32, batch 1: " in printed
    assert "slower compared with sam2 + open_clip, fp32" in printed
    assert "models, classifier, medfocus, torch, fp32, batch 1: is missing" in printed


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part that is interrupted after its first row, one that fails, one that works."""

    def interrupted(options: BenchOptions) -> Iterator[BenchRow]:
        yield ROW
        raise KeyboardInterrupt

    def failing(options: BenchOptions) -> Iterator[BenchRow]:
        yield ROW
        raise OSError("the runtime died\nwith details")

    def working(options: BenchOptions) -> Iterator[BenchRow]:
        yield row(part="startup")

    def missing(options: BenchOptions) -> Iterator[BenchRow]:
        yield row(status="not installed")

    replaced = {"models": failing, "startup": working, "pipeline": interrupted, "kernels": missing}
    monkeypatch.setattr(command, "PARTS", replaced)
    monkeypatch.setattr(command, "ALL", ("models", "startup"))


@pytest.mark.usefixtures("parts")
def test_interrupted_it_writes_what_it_has(engine_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    options = ["pipeline", "--engine", str(engine_directory), "--json", str(out)]
    assert main(options) == 130
    assert read_json(out) == [ROW]


@pytest.mark.usefixtures("parts")
def test_a_part_that_fails_is_a_row_and_the_others_go_on(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    options = ["--engine", str(engine_directory), "--json", str(out)]
    assert benchmarks.main(options) == 0
    assert [row.part for row in read_json(out)] == ["models", "models", "startup"]
    assert "OSError: the runtime died" in capsys.readouterr().err
    assert main(["kernels", *options]) == 1  # nothing was measured


@pytest.mark.usefixtures("parts")
def test_outputs_that_cannot_be_written_are_refused_before_measuring(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for option in ("--json", "--csv", "--plot", "--trace"):
        place = tmp_path / "file" / "rows"
        assert main(["--engine", str(engine_directory), option, str(place)]) == 4
        assert str(tmp_path / "file") in one_line(capsys)


@pytest.mark.usefixtures("parts")
def test_a_preset_that_cannot_be_exported_does_not_affect_other_engines(
    engine_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = MedfocusError("preset tiny", "was not exported", "see above")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(command, "ALL", ("export", "models", "startup"))
    monkeypatch.setattr(command, "export_part", fail)
    out = tmp_path / "rows.json"
    assert main(["--engine", str(engine_directory), "--json", str(out)]) == 0
    assert [row.part for row in read_json(out)] == ["export", "models", "models", "startup"]
    assert str(error) in capsys.readouterr().err
    assert main(["--json", str(out)]) == 4
    assert one_line(capsys) == f"error: {error}"


def test_engines_that_answer_differently_are_not_compared(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(engine_directory, other, ignore=shutil.ignore_patterns(FILE_NAME, DIGEST_NAME))
    manifest = read_engine_directory(engine_directory).manifest
    write_manifest(other, replace(manifest, classes=manifest.classes[::-1]))
    engines = ["--engine", str(engine_directory), "--engine", str(other)]
    assert main(["models", *engines]) == 2
    assert one_line(capsys).startswith("error: --engine: ")
    assert main(["models", *engines[:2], "--backends", "tensorrt"]) == 2
    assert one_line(capsys).startswith("error: --backends tensorrt: ")


@pytest.mark.parametrize("package", ["torch", "sam2"])
def test_a_missing_package_is_named(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None;"
        " from medfocus.benchmarks import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {package}: ")
    assert done.stderr.endswith("pip install 'medfocus[export,fewshot]'\n")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr, without those of the progress display."""
    lines = capsys.readouterr().err.splitlines()
    printed = [line for line in lines if line.strip() and "0:00:0" not in line]
    assert len(printed) == 1, lines
    return printed[0].strip()


def test_what_cannot_be_used_is_one_line(
    engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text("{}")
    for options in (
        ["--engine", str(tmp_path / "none")],
        ["--engine", str(engine_directory), "--compare", str(tmp_path / "old.json")],
    ):
        assert main(["models", *options]) == 4
        assert str(tmp_path) in one_line(capsys)
    assert main(["models", "--preset", "none"]) == 2
    assert "none" in one_line(capsys)


@pytest.mark.parametrize(
    "options",
    [
        ["--seconds", "nan"],
        ["--seconds", "-1"],
        ["--batch", "1,0"],
        ["--baselines", "upstream,nobody"],
        ["--backends", "cuda"],
        ["everything"],
    ],
)
def test_wrong_options_are_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert parser().parse_args(["--peers", "onnx"]).baselines == ("onnx",)  # the old name
