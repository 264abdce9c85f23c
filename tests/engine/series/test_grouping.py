"""Which images are one study, and in which order: compared with GDCM's sorting."""

import itertools
import random
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from medfocus.engine.io.volumes.parts import KINDS
from tests.engine.io.read import shipped
from tests.engine.series.slices import SERIES, axial, codes, dicom, found, saved, studies

OBLIQUE = ((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6))  # directions of a row and a column
CORONAL = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def by_gdcm(folder: Path) -> list[str]:
    """The names of a folder's only series in GDCM's order."""
    reader = SimpleITK.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    return [Path(name).name for name in reader.GetGDCMSeriesFileNames(str(folder), series)]


@pytest.mark.parametrize("plane", [((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, -1)), OBLIQUE])
def test_slices_follow_each_other_as_gdcm_sorts_them(tmp_path: Path, plane: Any) -> None:
    """However files are named and numbered."""
    normal = np.cross(*plane)
    distances = [3.7 * number - 20 for number in range(12)]
    random.Random(1).shuffle(distances)
    files = saved(
        tmp_path,
        [
            dicom(
                ImageOrientationPatient=np.concatenate(plane).tolist(),
                ImagePositionPatient=(distance * normal + 5 * np.array(plane[0])).tolist(),
                InstanceNumber=number + 1,
                SOPInstanceUID=f"{SERIES}.{number}",
            )
            for number, distance in enumerate(distances)
        ],
    )
    assert found(files) == [by_gdcm(tmp_path)]
    assert codes(files) == [[]]


@pytest.mark.parametrize("name", ["98892001/CT5N", "77654033/CT2"])
def test_real_series_are_sorted_as_by_gdcm(name: str) -> None:
    """In the first, AcquisitionNumber differs from slice to slice."""
    folder = shipped("CT_small.dcm").parent / "dicomdirtests" / name
    assert found(sorted(folder.iterdir())) == [by_gdcm(folder)]
    assert studies(sorted(folder.iterdir()))[0].source.startswith(f"{folder}/ (series 1, ")


def test_real_localizers_are_studies_of_their_own() -> None:
    """Two series, each of a sagittal, a coronal and an axial image; and one of one image."""
    folder = shipped("CT_small.dcm").parent / "dicomdirtests/98892003/MR2"
    files = sorted(folder.iterdir())
    assert sorted(map(len, found(files))) == [1] * 7
    assert sorted(codes(files)) == [[]] + [["series.split"]] * 6


def two_at_each_height(keyword: str, values: tuple[Any, Any]) -> list[Dataset]:
    """Two images at each of four heights, numbered one after the other."""
    both = itertools.product((9, 0, 3, 6), values)
    return [
        axial(height, InstanceNumber=number, **{keyword: value})
        for number, (height, value) in enumerate(both)
    ]


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoNumbers", (1, 2)),
        ("EchoTime", (4.6, 6.9)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("AcquisitionNumber", (1, 2)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_several_images_at_one_position_are_split(
    tmp_path: Path, keyword: str, values: tuple[Any, Any]
) -> None:
    assert keyword in KINDS
    files = saved(tmp_path, two_at_each_height(keyword, values))
    first, second = ([f"00{number}.dcm" for number in row] for row in ((2, 4, 6, 0), (3, 5, 7, 1)))
    assert found(files) == [first, second]
    assert codes(files) == [["series.split"]] * 2
    assert all(keyword in study.notices[0] for study in studies(files))


def test_echoes_of_several_times_are_split_by_both(tmp_path: Path) -> None:
    order = list(itertools.product((0, 3, 6), (1, 2, 3), (1, 2)))
    random.Random(2).shuffle(order)
    files = saved(
        tmp_path,
        {
            f"t{time}e{echo}h{height}": axial(
                height, TemporalPositionIdentifier=time, EchoNumbers=echo
            )
            for height, time, echo in order
        },
    )
    expected = [
        [f"t{time}e{echo}h{height}" for height in (0, 3, 6)]
        for time, echo in itertools.product((1, 2, 3), (1, 2))
    ]
    assert sorted(found(files)) == expected


def test_what_tells_nothing_apart_does_not_split(tmp_path: Path) -> None:
    """Images at one position, each with an acquisition number of its own."""
    images = two_at_each_height("EchoNumbers", (1, 1))
    for number, image in enumerate(images):
        image.AcquisitionNumber = number
    files = saved(tmp_path, images)
    assert found(files) == [[f"00{number}.dcm" for number in (2, 3, 4, 5, 6, 7, 0, 1)]]
    assert codes(files) == [["series.same_position"]]


def test_what_differs_from_position_to_position_only_does_not_split(tmp_path: Path) -> None:
    """A volume in two acquisitions, one above the other, with two images everywhere."""
    images = two_at_each_height("EchoNumbers", (1, 1))
    for image in images:
        image.AcquisitionNumber = 1 + (image.ImagePositionPatient[2] > 4)
    assert codes(saved(tmp_path, images)) == [["series.same_position"]]


@pytest.mark.parametrize(
    "other",
    [
        {"pixels": np.zeros((6, 4))},
        {"ImageOrientationPatient": CORONAL},
        {"ImageOrientationPatient": None},
        {"ImagePositionPatient": None},
    ],
)
def test_another_size_or_orientation_is_another_study(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    files = saved(tmp_path, [axial(6), axial(0, **other), axial(3)])
    assert sorted(found(files)) == [["001.dcm"], ["002.dcm", "000.dcm"]]
    assert codes(files) == [["series.split"]] * 2


def test_directions_that_differ_by_rounding_are_one(tmp_path: Path) -> None:
    turned = [0.9999999, 0.0000042, 0.0, -0.0000042, 0.9999999, 0.0]
    files = saved(tmp_path, [axial(6), axial(0, ImageOrientationPatient=turned)])
    assert found(files) == [["001.dcm", "000.dcm"]]


def test_images_without_positions_follow_their_numbers(tmp_path: Path) -> None:
    files = saved(tmp_path, [dicom(InstanceNumber=number) for number in (2, 10, 1)])
    assert found(files) == [["002.dcm", "000.dcm", "001.dcm"]]
    assert codes(files) == [["series.no_positions"]]


def test_images_without_any_order_stay_as_given(tmp_path: Path) -> None:
    files = saved(tmp_path, [dicom(), dicom(InstanceNumber=1), dicom()])
    assert codes(files) == [["series.no_order"]]
    assert len(found(files)[0]) == 3


@pytest.mark.parametrize(
    "orientation", [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 5, 0], [1, 0, 0]]
)
def test_nonsense_for_an_orientation_is_none(tmp_path: Path, orientation: Any) -> None:
    files = saved(
        tmp_path,
        [
            axial(3 - number, ImageOrientationPatient=orientation, InstanceNumber=number)
            for number in range(3)
        ],
    )
    assert codes(files) == [["series.no_positions"]]
    assert found(files) == [["000.dcm", "001.dcm", "002.dcm"]]


def test_series_are_told_apart(tmp_path: Path) -> None:
    """By their own UID and their study's; without one, each file is a study."""
    other = f"{SERIES}.5"
    files = saved(
        tmp_path / "a",
        [
            axial(0),
            axial(0, SeriesInstanceUID=other),
            axial(0, StudyInstanceUID="1.2.4"),
            axial(0, SeriesInstanceUID=""),
            axial(1),
            axial(1, SeriesInstanceUID=other),
            axial(1, StudyInstanceUID="1.2.4"),
            axial(1, SeriesInstanceUID=""),
        ],
    )
    assert found(files) == [
        ["000.dcm", "004.dcm"],
        ["001.dcm", "005.dcm"],
        ["002.dcm", "006.dcm"],
        ["003.dcm"],
        ["007.dcm"],
    ]
    sources = [study.source for study in studies(files)]
    assert sources[:3] == [f"{tmp_path}/a/ (series {n}, 2 slices)" for n in (1, 2, 3)]
    assert sources[3:] == [files[3], files[7]]


def test_a_study_is_called_by_the_folder_that_its_files_share(tmp_path: Path) -> None:
    files = [*saved(tmp_path / "s" / "a", [axial(0)]), *saved(tmp_path / "s" / "b", [axial(1)])]
    assert [study.source for study in studies(files)] == [f"{tmp_path}/s/ (series 1, 2 slices)"]


def test_nothing_of_a_patient_is_in_what_is_kept(tmp_path: Path) -> None:
    images = two_at_each_height("ImageType", (["DOE"], ["OTHER"]))
    kept = repr(studies(saved(tmp_path, images)))
    assert not any(text in kept for text in ("DOE", "4711", SERIES, "1.2.3"))


def group(**attributes: Any) -> list[Dataset]:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def enhanced(heights: list[float], echoes: list[float], **attributes: Any) -> Dataset:
    """An enhanced multi-frame object: of each frame a height and an effective echo time."""
    made = dicom(np.zeros((len(heights), 4, 6)), **attributes)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    for height, echo in zip(heights, echoes, strict=True):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[0, 0, height])
        frame.MREchoSequence = group(EffectiveEchoTime=echo)
        frames.append(frame)
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = frames
    return made


def test_frames_of_an_enhanced_object_are_slices(tmp_path: Path) -> None:
    """PS3.3 C.7.6.16.2.3 and C.7.6.16.2.4; two files of one series are one volume."""
    files = saved(tmp_path, [enhanced([6, 0, 3, 9], [5.0] * 4), enhanced([15, 12], [5.0] * 2)])
    first = ["000.dcm#1", "000.dcm#2", "000.dcm", "000.dcm#3"]
    assert found(files) == [[*first, "001.dcm#1", "001.dcm"]]
    assert found(files[:1]) == [first]
    assert [study.source for study in studies(files[:1])] == [files[0]]


def test_echoes_in_an_enhanced_object_are_split(tmp_path: Path) -> None:
    files = saved(tmp_path, [enhanced([3, 3, 0, 0], [5.0, 9.0, 5.0, 9.0])])
    assert found(files) == [["000.dcm#2", "000.dcm"], ["000.dcm#3", "000.dcm#1"]]
    assert [study.source for study in studies(files)] == [
        f"{files[0]} (part 1)",
        f"{files[0]} (part 2)",
    ]


def test_frames_without_places_keep_the_order_of_their_file(tmp_path: Path) -> None:
    """And a file of them is a study: a clip of a series of clips."""
    files = saved(tmp_path, [dicom(np.zeros((5, 4, 6))), dicom(np.zeros((3, 4, 6)))])
    assert found(files) == [["000.dcm"], ["001.dcm"]]
    assert codes(files) == [["series.split"]] * 2
    counts = [[part.count for _, part, _ in study.units] for study in studies(files)]
    assert counts == [[5], [3]]
    # As many places as frames, or none.
    broken = enhanced([6, 0, 3], [5.0] * 3, NumberOfFrames=4)
    (study,) = studies(saved(tmp_path, [broken]))
    assert [unit.part.count for unit in study.units] == [4]


def test_volumes_of_a_nifti_file_are_studies(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3, 2), np.int16), np.diag([1, 1, 4, 1])), path)
    first, second = studies([path])
    assert [(each.first, each.count) for _, each, _ in first.units + second.units] == [
        (0, 3),
        (3, 3),
    ]
    assert (first.source, second.source) == (f"{path} (part 1)", f"{path} (part 2)")
    assert codes([path]) == [["series.split"]] * 2


def test_a_file_that_cannot_be_read_is_a_study(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    (tmp_path / "b.png").write_bytes(b"nothing")
    files = [tmp_path / name for name in ("a.dcm", "b.png", "absent.dcm")]
    assert [study.source for study in studies(files)] == list(map(str, files))
