"""`Engine.classify(group="series")`: compared with the engine's own answers for each image."""

import io
import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from pydicom import dcmread

from medfocus.engine import Engine, Prediction, SeriesPrediction
from medfocus.engine.series.answers import series_predictions
from medfocus.errors import ImageError, InputError, MedfocusError
from tests.engine.series.slices import SERIES, axial, dicom, saved, studies
from tests.errors import refuses


@pytest.fixture(scope="module")
def engine(engine_directory: Path) -> Engine:
    return Engine.load(engine_directory, deterministic=True)


def anatomy(*shape: int) -> np.ndarray:
    """A smooth volume of values from 0 to 1000: what regions can be found in."""
    coarse = np.random.default_rng(11).random((*shape[:-2], 6, 6))
    flat = coarse.reshape(-1, 6, 6)
    size = shape[-1], shape[-2]
    rows = [np.asarray(Image.fromarray(each).resize(size, 3)) for each in flat]
    return (np.clip(rows, 0, 1) * 1000).reshape(shape).astype(np.int16)


HEIGHTS = [float(4 * number) for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five axial slices, named in another order; they have a window from 0 to 1000."""
    folder = tmp_path_factory.mktemp("study")
    slices = dict(zip(HEIGHTS, anatomy(5, 48, 64), strict=True))
    heights = HEIGHTS.copy()
    random.Random(4).shuffle(heights)
    saved(folder, [axial(height, slices[height]) for height in heights])
    return folder


def files(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


def height(path: str) -> float:
    return float(dcmread(path).ImagePositionPatient[2])


def mean(predictions: list[Prediction]) -> dict[str, float]:
    return {
        name: sum(each.probabilities[name] for each in predictions) / len(predictions)
        for name in predictions[0].probabilities
    }


def test_a_series_is_its_slices_and_their_mean(engine: Engine, folder: Path) -> None:
    (study,) = engine.classify(files(folder), group="series")
    in_order = sorted(files(folder), key=height)
    alone = engine.classify(in_order)
    assert study.source == f"{folder}/ (series 1, 5 slices)"
    assert [each.source for each in study.slices] == in_order
    for found, expected in zip(study.slices, alone, strict=True):
        assert found.probabilities == expected.probabilities
        assert found.focus_mask is not None
    assert study.probabilities == pytest.approx(mean(alone), rel=1e-12)
    assert study.label == max(study.probabilities, key=lambda name: study.probabilities[name])
    assert (study.probability, study.top(1)) == (study.top()[0][1], [study.top()[0]])
    best = max(alone, key=lambda each: each.probabilities[study.label or ""])
    assert study.evidence_slice is not None
    assert study.evidence_slice.source == best.source
    assert (study.joined, study.warnings, study.error) == ("mean", (), None)


@pytest.mark.parametrize("rule", ["max", "focused:2"])
def test_the_manifest_says_how_slices_are_joined(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    monkeypatch.setattr(engine, "manifest", replace(engine.manifest, join=rule))
    (study,) = engine.classify(files(folder), group="series")
    assert all(each.focused for each in study.slices)
    if rule == "max":
        most = {
            name: max(each.probabilities[name] for each in study.slices)
            for name in study.probabilities
        }
        expected = {name: value / sum(most.values()) for name, value in most.items()}
    else:
        expected = mean(sorted(study.slices, key=lambda each: -(each.focus_score or 0))[:2])
    assert study.joined == rule
    assert study.probabilities == pytest.approx(expected, rel=1e-12)


def test_a_nifti_volume_is_answered_as_the_dicom_series_that_it_was_made_from(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    """By SimpleITK, which knows both."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    path = tmp_path / "brain.nii.gz"
    volume = reader.Execute()
    volume.SetMetaData("cal_min", "0.5")  # the window 500, 1000 of PS3.3 C.11.2.1.2.1
    volume.SetMetaData("cal_max", "999.5")
    SimpleITK.WriteImage(volume, str(path))
    (series,) = engine.classify(files(folder), group="series")
    (study,) = engine.classify(path, group="series")
    assert (study.source, len(study.slices)) == (str(path), 5)
    assert [each.source for each in study.slices] == [f"{path}#{number}" for number in range(5)]
    assert [each.source for each in engine.classify(path)] == [e.source for e in study.slices]
    assert study.probabilities == pytest.approx(series.probabilities, abs=0.02)
    assert study.evidence == series.evidence


def test_studies_come_in_the_order_in_which_sources_begin_them(
    engine: Engine, tmp_path: Path
) -> None:
    """Slices of two series that alternate, and a picture."""
    both = [
        axial(height, anatomy(48, 64), SeriesInstanceUID=f"{SERIES}.{number}")
        for height in (4, 0)
        for number in (1, 2)
    ]
    paths = saved(tmp_path, both)
    Image.new("L", (40, 30), 90).save(tmp_path / "a.png")
    sources = [paths[0], str(tmp_path / "a.png"), *paths[1:]]
    found = list(engine.stream(iter(sources), group="series"))
    assert [[each.source for each in study.slices] for study in found] == [
        [paths[2], paths[0]],
        [sources[1]],
        [paths[3], paths[1]],
    ]


def test_a_slice_that_fails_does_not_count(engine: Engine, folder: Path, tmp_path: Path) -> None:
    good = files(folder)
    broken = axial(2.0, anatomy(48, 64))
    broken.PixelData = broken.PixelData[:100]
    (bad,) = saved(tmp_path, [broken])
    (study,) = engine.classify([*good, bad], group="series")
    (without,) = engine.classify(good, group="series")
    assert [each.source for each in study.slices if each.error] == [bad]
    assert study.slices[1].source == bad
    assert study.probabilities == without.probabilities
    assert study.evidence_slice is not None
    assert without.evidence_slice is not None
    assert study.evidence_slice.source == without.evidence_slice.source
    assert [notice.code for notice in study.warnings] == ["series.slices_failed"]
    with refuses(ImageError, "image.truncated", bad):
        engine.classify([*good, bad], group="series", strict=True)


def test_a_study_of_failures_is_an_error(engine: Engine, tmp_path: Path) -> None:
    broken = [axial(height) for height in (0, 1)]
    for each in broken:
        each.PixelData = b""
    paths = saved(tmp_path, broken)
    study, absent = engine.classify([*paths, "absent.dcm"], group="series")
    for found, code, slices in ((study, "dicom.no_pixels", 2), (absent, "image.not_found", 1)):
        assert isinstance(found.error, ImageError)
        assert (found.error.code, len(found.slices)) == (code, slices)
        assert (found.label, found.probability, found.evidence) == (None, None, None)
        assert found.to_dict()["error"] == str(found.error)


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[: -2 * 48 * 64 - 10])
    return str(path)


def test_frames_that_a_file_lacks_are_one_failure(engine: Engine, tmp_path: Path) -> None:
    whole = dicom(anatomy(4, 48, 64))
    (path,) = saved(tmp_path, [whole])
    (study,) = engine.classify([cut(Path(path))], group="series")
    assert [each.error is None for each in study.slices] == [True, True, False]
    assert [notice.code for notice in study.warnings] == ["series.slices_failed"]


def test_each_volume_of_a_file_has_its_own_slices(engine: Engine, tmp_path: Path) -> None:
    """Also where only some of them are asked for, as when a run resumes."""
    path = str(tmp_path / "a.nii")
    volumes = np.moveaxis(anatomy(2, 3, 48, 64), (0, 1), (3, 2))
    nib.save(nib.Nifti1Image(volumes, np.diag([1, 1, 4, 1])), path)
    alone = engine.classify(path)
    names = [each.source for each in alone]
    answers = [
        [each.source for each in study.slices] for study in engine.classify(path, group="series")
    ]
    assert answers == [names[:3], names[3:]]
    for wanted, own in zip(studies([path]), answers, strict=True):
        (study,) = series_predictions([wanted], [(0, alone)], "mean")
        assert [each.source for each in study.slices] == own


@pytest.mark.parametrize(
    "held",
    [
        dcmread,
        lambda path: Path(path).read_bytes(),
        lambda path: io.BytesIO(Path(path).read_bytes()),
    ],
)
def test_files_in_memory_are_grouped(
    engine: Engine, folder: Path, held: Callable[[str], Any]
) -> None:
    paths = files(folder)
    (expected,) = engine.classify(paths, group="series")
    (study,) = engine.classify([held(path) for path in paths], group="series")
    assert study.probabilities == expected.probabilities
    places = sorted(range(5), key=lambda number: height(paths[number]))
    assert [each.source for each in study.slices] == [f"item {number}" for number in places]


def test_arrays_belong_to_no_series(engine: Engine, folder: Path) -> None:
    with refuses(InputError, "input.no_series", "item 1"):
        engine.classify([files(folder)[0], np.zeros((8, 8), np.uint8)], group="series")


def test_other_ways_to_group_are_refused(engine: Engine, folder: Path) -> None:
    with refuses(InputError, "input.unknown_choice", "group"):
        engine.classify(files(folder), group="patient")  # type: ignore[call-overload]


def test_prompts_stay_with_their_files(engine: Engine, folder: Path) -> None:
    paths = files(folder)
    boxes = [(4 * number, 3, 30 + 4 * number, 40) for number in range(5)]
    (study,) = engine.classify(paths, boxes=boxes, group="series")
    alone = {each.source: each for each in engine.classify(paths, boxes=boxes)}
    for found in study.slices:
        assert found.probabilities == alone[found.source].probabilities


def test_headers_in_another_process_are_as_in_this_one(
    engine_directory: Path, folder: Path
) -> None:
    with Engine.load(engine_directory, trust_files=True, deterministic=True) as trusting:
        found = trusting.classify(files(folder), group="series")
    with Engine.load(engine_directory, deterministic=True) as other:
        expected = other.classify(files(folder), group="series")
    assert [each.to_dict() for each in found] == [each.to_dict() for each in expected]


def test_a_closed_engine_says_so(engine_directory: Path, folder: Path) -> None:
    closed = Engine.load(engine_directory)
    closed.close()
    with refuses(InputError, "engine.closed"):
        closed.stream(files(folder), group="series")


def test_a_prediction_goes_into_json_and_through_pickle(engine: Engine, folder: Path) -> None:
    (study,) = engine.classify(files(folder), group="series")
    row = json.loads(json.dumps(study.to_dict()))
    assert row["slices"] == [each.to_dict() for each in study.slices]
    assert row["evidence"] in [each["source"] for each in row["slices"]]
    again = pickle.loads(pickle.dumps(study))  # noqa: S301
    assert isinstance(again, SeriesPrediction)
    assert again.to_dict() == row
    with pytest.raises(TypeError):
        study.probabilities["first"] = 1.0  # type: ignore[index]
    assert not issubclass(SeriesPrediction, MedfocusError)
