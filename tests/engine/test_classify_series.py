"""`medfocus classify --group series`: rows, pictures, resuming and archives."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfocus.classify import command as classify_command
from medfocus.classify.command import main
from medfocus.engine import Engine
from medfocus.engine.evidence.files import evidence_name
from medfocus.errors import DeviceError
from tests.engine.artifact.test_manifest import MANIFEST
from tests.engine.series.slices import SERIES, axial, saved
from tests.package.classify.test_command import CountingEngine, picture

A, B = "scans/a/ (series 1, 3 slices)", "scans/b/ (series 1, 2 slices)"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> CountingEngine:
    fake = CountingEngine(replace(MANIFEST, join="mean"))
    loader = type("Loader", (), {"load": staticmethod(lambda *_, **__: fake)})
    monkeypatch.setattr(classify_command, "Engine", loader)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two series of slices that become brighter upward, named downward."""
    monkeypatch.chdir(tmp_path)
    for number, (name, count) in enumerate((("a", 3), ("b", 2))):
        slices = [
            axial(
                height,
                np.full((20, 30), 200 * height + 100) + np.eye(20, 30),
                SeriesInstanceUID=f"{SERIES}.{number}",
            )
            for height in range(count, 0, -1)
        ]
        saved(Path("scans", name), slices)
    return Path("scans")


def rows(path: str) -> list[dict]:
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize("options", [[], ["--trust-files"]])
def test_json_holds_each_study_with_its_slices(
    folder: Path, engine: CountingEngine, options: list[str]
) -> None:
    assert main(["engine", "scans", "--group", "series", "-o", "out.json", *options]) == 0
    first, second = rows("out.json")
    assert (first["source"], second["source"]) == (A, B)
    assert [each["source"] for each in first["slices"]] == [
        f"scans/a/00{number}.dcm" for number in (2, 1, 0)
    ]
    for name, probability in first["probabilities"].items():
        own = [each["probabilities"][name] for each in first["slices"]]
        assert probability == pytest.approx(sum(own) / 3, rel=1e-12)
    best = max(first["slices"], key=lambda each: each["probabilities"][first["label"]])
    assert (first["evidence"], first["joined"]) == (best["source"], "mean")
    assert (first["focused"], first["focus_score"], first["error"]) == (True, 0.5, None)


def test_csv_and_table_hold_a_line_for_each_study(
    folder: Path,
    engine: CountingEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["engine", "scans", "--group", "series", "-o", "out.csv"]) == 0
    lines = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [(each["source"], each["slices"], each["joined"]) for each in lines] == [
        (A, "3", "mean"),
        (B, "2", "mean"),
    ]
    assert lines[0]["evidence"].startswith("scans/a/")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["engine", "scans", "--group", "series"]) == 0
    shown = capsys.readouterr().out
    assert "a/ (series 1, 3 slices)" in shown
    assert "evidence" in shown


def test_the_picture_is_that_of_the_evidence(folder: Path, engine: CountingEngine) -> None:
    """Of a frame of a volume, with the study's own name; one for each study."""
    voxels = np.zeros((30, 20, 4), np.uint8)
    voxels[:, :, 2] = 200
    voxels[:5] = 10
    volume = nib.Nifti1Image(voxels, np.diag([-1, -1, 4, 1]))
    nib.save(volume, "scans/volume.nii.gz")
    args = ["engine", "scans", "--group", "series", "-o", "out.json", "--overlays", "pictures"]
    assert main(args) == 0
    found = rows("out.json")
    names = {path.name for path in Path("pictures").iterdir()}
    assert names == {evidence_name(row["source"], "png") for row in found}
    (row,) = (row for row in found if row["source"] == "scans/volume.nii.gz")
    with Image.open(Path("pictures", evidence_name(row["source"], "png"))) as shown:
        # The slice on the left of the picture: dark but for the third.
        bright = np.asarray(shown.convert("L"))[150:350, 100:300].mean()
    assert (bright > 128) == (row["evidence"] == "scans/volume.nii.gz#2")


def test_a_run_resumes_with_the_studies_that_are_left(folder: Path, engine: CountingEngine) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            raise DeviceError("device", "is gone", "try again")

    engine.max_batch = 1
    engine.before_batch = interrupt
    args = ["engine", "scans", "--group", "series", "-o", "out.json"]
    assert main(args) == 4
    assert engine.seen == ["002.dcm", "001.dcm", "000.dcm"]
    engine.batches, engine.before_batch = [], lambda number: None
    assert main(args) == 0
    assert engine.seen == ["001.dcm", "000.dcm"]
    assert [row["source"] for row in rows("out.json")] == [A, B]


def test_a_study_that_has_changed_is_classified_again(folder: Path, engine: CountingEngine) -> None:
    journal = Path("out.json.partial")
    kept: list[bytes] = []
    engine.before_batch = lambda number: kept.append(journal.read_bytes())
    engine.max_batch = 1
    args = ["engine", "scans", "--group", "series", "-o", "out.json"]
    assert main(args) == 0
    journal.write_bytes(kept[3])  # when the first study was finished
    saved(Path("scans/a"), {"new.dcm": axial(9, SeriesInstanceUID=f"{SERIES}.0")})
    engine.batches = []
    assert main(args) == 0
    assert len(engine.seen) == 6
    # Without --group the journal is another run's.
    journal.write_bytes(kept[3])
    engine.batches = []
    assert main(["engine", "scans", "-o", "out.json"]) == 0
    assert len(engine.seen) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.update(slices=[]),
        lambda row: row.update(slices=[3]),
        lambda row: row.update(evidence=None),
        lambda row: row["slices"][0].pop("label"),
    ],
)
def test_a_journal_of_another_shape_is_refused(
    folder: Path, engine: CountingEngine, change: Callable[[dict], None]
) -> None:
    journal = Path("out.json.partial")
    kept: list[bytes] = []
    engine.before_batch = lambda number: kept.append(journal.read_bytes())
    engine.max_batch = 1
    args = ["engine", "scans", "--group", "series", "-o", "out.json"]
    assert main(args) == 0
    head, line = kept[-1].splitlines()[:2]
    key, [row] = json.loads(line)
    change(row)
    journal.write_bytes(b"\n".join([head, json.dumps([key, [row]]).encode(), b""]))
    assert main(args) == 4


def test_archives_are_unpacked_for_headers_and_again_for_pixels(
    folder: Path, engine: CountingEngine
) -> None:
    shutil.make_archive("study", "zip", "scans")
    args = ["engine", "study.zip", "--group", "series", "-o", "out.json", "--overlays", "pictures"]
    assert main(args) == 0
    found = rows("out.json")
    assert [row["source"] for row in found] == [
        "study.zip/a/ (series 1, 3 slices)",
        "study.zip/b/ (series 1, 2 slices)",
    ]
    assert found[0]["slices"][0]["source"] == "study.zip/a/002.dcm"
    assert len(list(Path("pictures").iterdir())) == 2


def test_a_slice_that_fails_is_said(
    folder: Path, engine: CountingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("scans/b/000.dcm").write_bytes(Path("scans/b/000.dcm").read_bytes()[:-900])
    picture(Path("scans/c.png"))
    Path("scans/d.dcm").write_bytes(b"nothing")
    args = ["engine", "scans", "--group", "series", "-o", "out.json"]
    assert main(args) == 1
    found = rows("out.json")
    assert [row["source"] for row in found] == [A, B, "scans/c.png", "scans/d.dcm"]
    assert [row["label"] is None for row in found] == [False, False, False, True]
    assert "series.slices_failed" in found[1]["warning_codes"]
    said = capsys.readouterr().err
    assert "3 classified, 1 failed" in said
    assert "scans/b/000.dcm: " in said
    assert "DOE" not in said + Path("out.json").read_text()


def test_boxes_masks_and_the_most_probable_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_directory: Path
) -> None:
    """With a real engine: a box for one slice of a volume, one mask per slice."""
    monkeypatch.chdir(tmp_path)
    coarse = np.random.default_rng(5).integers(0, 1000, (6, 6, 3)).astype(np.int16)
    volume = coarse.repeat(8, axis=0).repeat(8, axis=1)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, -1, 4, 1])), "v.nii.gz")
    Path("boxes.csv").write_text("file,left,top,right,bottom\nv.nii.gz#1,5,5,40,40\n")
    args = [str(engine_directory), "v.nii.gz", "--group", "series", "-o", "out.json"]
    assert main([*args, "--boxes", "boxes.csv", "--masks", "masks", "--top-k", "1"]) == 0
    (row,) = rows("out.json")
    with Engine.load(engine_directory) as engine:
        (study,) = engine.classify("v.nii.gz", boxes=[{1: (5, 5, 40, 40)}], group="series")
    assert row["label"] == study.label
    assert row["probabilities"] == pytest.approx(dict(study.top(1)), abs=1e-5)
    for found, expected in zip(row["slices"], study.slices, strict=True):
        assert found["probabilities"] == pytest.approx(dict(expected.top(1)), abs=1e-5)
        with Image.open(Path("masks", evidence_name(expected.source, "png"))) as mask:
            np.testing.assert_array_equal(np.asarray(mask) > 0, expected.focus_mask)
    Path("boxes.csv").write_text("file,left,top,right,bottom\nv.nii.gz#9,5,5,40,40\n")
    assert main([*args, "--boxes", "boxes.csv"]) == 1
    assert [each["error"] is None for each in rows("out.json")[0]["slices"]] == [True] * 3 + [False]
