"""`medfocus classify --boxes`, `--masks` and `--top-k` with a real engine, against `Engine`."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfocus.classify.command import main
from medfocus.engine import Engine, Prediction
from medfocus.engine.evidence.files import evidence_name
from medfocus.engine.io.inputs.boxes import read_boxes
from medfocus.engine.io.inputs.files import InputFile
from medfocus.errors import FileError, InputError
from medfocus.export.engine_directory import build
from tests.conftest import CLASSES, random_bundle
from tests.engine.test_engine import pictures
from tests.errors import refuses

BOX = (5.0, 5.0, 40.0, 40.0)


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, one whose name looks like a frame's, and a file of three images."""
    monkeypatch.chdir(tmp_path)
    shown = [Image.fromarray(pixels) for pixels in pictures(6)]
    Path("scans").mkdir()
    shown[0].save("scans/a.png")
    shown[1].save("scans/b.png")
    shown[2].save("scans/b.png#1.png")
    shown[3].save("scans/m.tif", save_all=True, append_images=shown[4:])
    return Path("scans")


def answers(arguments: list[str]) -> Iterator[dict]:
    """The rows by name, of a run that succeeds."""
    assert main([*arguments, "-q", "-o", "out.json"]) == 0
    yield from json.loads(Path("out.json").read_text())


def assert_row(row: dict, expected: Prediction) -> None:
    assert row["source"] == expected.source
    assert row["label"] == expected.label
    assert row["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)
    assert row["focus_score"] == pytest.approx(expected.focus_score, abs=1e-5)


def test_boxes_are_those_of_the_images_that_the_table_names(
    scans: Path, engine_directory: Path
) -> None:
    Path("boxes.csv").write_text(
        "\ufeffnote,file,left,top,right,bottom\n"
        f'x,"{scans.absolute()}/a.png",5,5,40,40\n'
        ",scans/../scans/b.png#1.png,5,5,40,40\n\n"
        ",scans/m.tif#2 , 5,5,40,40.0\n",
        encoding="utf-8",
    )
    rows = [*answers([str(engine_directory), "scans", "--boxes", "boxes.csv"])]
    names = ["scans/a.png", "scans/b.png", "scans/b.png#1.png", "scans/m.tif"]
    with Engine.load(engine_directory) as engine:
        expected = engine.classify(names, boxes=[BOX, None, BOX, {2: BOX}])
        plain = engine.classify(names)
    assert len(rows) == 6
    for row, one in zip(rows, expected, strict=True):
        assert_row(row, one)
    changed = [a.focus_score != b.focus_score for a, b in zip(expected, plain, strict=True)]
    assert changed == [True, False, True, False, False, True], "or nothing is told"


def test_boxes_of_files_in_an_archive(scans: Path, engine_directory: Path) -> None:
    with zipfile.ZipFile("study.zip", "w") as archive:
        archive.write("scans/a.png", "x/a.png")
    Path("boxes.csv").write_text("file,left,top,right,bottom\nstudy.zip/x/a.png,5,5,40,40\n")
    (row,) = answers([str(engine_directory), "study.zip", "--boxes", "boxes.csv"])
    with Engine.load(engine_directory) as engine:
        (expected,) = engine.classify("scans/a.png", boxes=[BOX])
    assert row["focus_score"] == pytest.approx(expected.focus_score, abs=1e-5)


def test_a_box_for_an_image_that_its_file_does_not_hold_is_an_error(
    scans: Path, engine_directory: Path
) -> None:
    lines = "scans/m.tif#1,5,5,40,40\nscans/m.tif#3,5,5,40,40\nscans/a.png#0,5,5,40,40\n"
    Path("boxes.csv").write_text(f"file,left,top,right,bottom\n{lines}")
    command = [str(engine_directory), "scans", "--boxes", "boxes.csv", "-q", "-o", "out.json"]
    assert main(command) == 1
    rows = json.loads(Path("out.json").read_text())
    assert [row["source"] for row in rows if row["error"]] == ["scans/m.tif#3"]
    assert "scans/m.tif#3" in rows[-1]["error"]
    assert len(rows) == 7


HEAD = "file,left,top,right,bottom\n"


@pytest.mark.parametrize(
    ("text", "code", "item"),
    [
        ("", "boxes.invalid_table", "boxes.csv"),
        ("file,left,top,right\n", "boxes.invalid_table", "boxes.csv"),
        ("file,left,top,right,bottom,left\n", "boxes.invalid_table", "boxes.csv"),
        (HEAD + '"a.png', "boxes.invalid_table", "boxes.csv"),
        (HEAD + "a.png,1,2,3\n", "boxes.invalid_row", "boxes.csv, line 2"),
        (HEAD + "\n,1,2,3,4\n", "boxes.invalid_row", "boxes.csv, line 3"),
        (HEAD + "a.png,1,2,3,x\n", "boxes.invalid_row", "boxes.csv, line 2"),
        (HEAD + "a.png,1,nan,3,4\n", "boxes.invalid_row", "boxes.csv, line 2"),
        (HEAD + "a.png,1,2,1,4\n", "boxes.invalid_row", "boxes.csv, line 2"),
        (HEAD + "a.png,1,2,3,4\n./a.png,1,2,3,4\n", "boxes.invalid_row", "boxes.csv, line 3"),
        (HEAD + "a.png#1,1,2,3,4\na.png,1,2,3,4\n", "boxes.invalid_row", "boxes.csv, line 3"),
        (HEAD + "a.png,1,2,3,4\na.png#1,1,2,3,4\n", "boxes.invalid_row", "boxes.csv, line 3"),
        (HEAD + "a.png#1,1,2,3,4\na.png#1,1,2,3,4\n", "boxes.invalid_row", "boxes.csv, line 3"),
        (HEAD + "b.png,1,2,3,4\n", "boxes.unknown_file", "boxes.csv, line 2"),
        (HEAD + "a.png#x,1,2,3,4\n", "boxes.unknown_file", "boxes.csv, line 2"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: str, item: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("boxes.csv").write_text(text)
    with refuses(InputError, code, item):
        read_boxes(Path("boxes.csv"), [InputFile(Path("a.png"))])


def test_a_table_that_is_no_text_or_missing(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes(b"file,left\xff\n")
    with refuses(InputError, "boxes.invalid_table", "boxes.csv"):
        read_boxes(tmp_path / "boxes.csv", [])
    with refuses(FileError, "file.missing", "none.csv"):
        read_boxes(tmp_path / "none.csv", [])


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_masks_are_written_in_each_images_frame(
    scans: Path, engine_directory: Path, suffix: str
) -> None:
    options = ["--masks", "scans/masks", "--mask-format", suffix, "--overlays", "overlays"]
    rows = [*answers([str(engine_directory), "scans", *options])]
    with Engine.load(engine_directory) as engine:
        expected = engine.classify(sorted(scans.glob("*.*")))
    assert len(list(Path("scans/masks").iterdir())) == len(rows) == len(expected)
    for row, prediction in zip(rows, expected, strict=True):
        path = Path("scans/masks", evidence_name(row["source"], suffix))
        mask = np.load(path) if suffix == "npy" else np.asarray(Image.open(path).convert("L"))
        assert mask.dtype == (bool if suffix == "npy" else np.uint8)
        assert set(np.unique(mask)) <= ({False, True} if suffix == "npy" else {0, 255})
        assert prediction.focus_mask is not None
        assert mask.shape == prediction.image_size
        assert ((mask > 0) != prediction.focus_mask).mean() < 1e-3  # one batch or another
        assert Path("overlays", evidence_name(row["source"], "png")).exists()
    # Masks are no inputs of the next run.
    assert len([*answers([str(engine_directory), "scans", "--masks", "scans/masks"])]) == len(rows)


def test_evidence_that_cannot_be_is_refused_before_the_first_image(
    scans: Path, engine_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ["--masks", "./one", "--overlays", "one"]
    assert main([str(engine_directory), "scans", *same]) == 2
    build(tmp_path / "none", random_bundle("none"))
    Path("boxes.csv").write_text(f"{HEAD}scans/a.png,1,2,3,4\n")
    assert main([str(tmp_path / "none"), "scans", "--masks", "masks"]) == 2
    assert main([str(tmp_path / "none"), "scans", "--boxes", "boxes.csv"]) == 2
    assert not Path("masks").exists()
    assert capsys.readouterr().out == ""


def test_the_most_probable_classes_are_shown_and_written(
    scans: Path, engine_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [str(engine_directory), "scans/a.png"]
    (whole,) = answers(base)
    ranked = sorted(whole["probabilities"].items(), key=lambda item: -item[1])
    assert list(whole["probabilities"]) == list(CLASSES) != [name for name, _ in ranked]
    (limited,) = answers([*base, "--top-k", "2"])
    assert list(limited["probabilities"].items()) == ranked[:2]
    assert limited | {"probabilities": whole["probabilities"]} == whole
    assert main([*base, "-q", "--top-k", "2", "-o", "out.csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(Path("out.csv").read_text()))
    pairs = [(line[f"label_{place}"], float(line[f"probability_{place}"])) for place in (1, 2)]
    assert pairs == ranked[:2]
    assert not [name for name in line if name.startswith("probability:")]
    capsys.readouterr()
    assert main([*base, "-q", "--top-k", "9"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"{probability:.1%}") for _, probability in ranked]
    assert places == sorted(places)
    assert [shown.count(name) for name in CLASSES] == [1, 1, 1]
