"""NIfTI files: slices as SimpleITK turns them, values as nibabel reads them."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.volumes import nifti
from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.engine.io.test_reading import read_frames
from tests.errors import refuses

SPACINGS = (1.0, 1.5, 4.0)
AXIAL = np.diag([-1.0, -1.0, 3.0, 1.0])  # left, posterior, superior: as DICOM stores it
# Of rows, columns and slices: ITK's orientation that has each as a radiologist sees it.
ITK = {0: "PIR", 1: "LIP", 2: "LPS"}


def volume(*shape: int, dtype: Any = np.int16) -> np.ndarray:
    return (np.random.default_rng(3).random(shape) * 1000).astype(dtype)


def saved(path: Path, voxels: np.ndarray, affine: Any = AXIAL, **header: Any) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def loaded(path: Path) -> Any:
    return nib.load(path)


def levels(path: Path) -> np.ndarray:
    """(slices, H, W)"""
    return np.stack([image.pixels[..., 0] for image in read_images(path)])


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def by_percentiles(values: np.ndarray) -> np.ndarray:
    return windowed(values, *np.percentile(values[values != 0].astype(float), (0.5, 99.5)))


def affines() -> list[tuple[int, np.ndarray]]:
    """Every way to store a volume, and the axis of the body that its slices are counted along."""
    made = []
    for order, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis in range(3):
            affine[order[axis], axis] = SPACINGS[axis] * signs[axis]
        made.append((order[2], affine))
    return made


def test_slices_are_turned_as_itk_turns_them(tmp_path: Path) -> None:
    voxels = volume(5, 7, 4)
    for across, affine in affines():
        path = saved(tmp_path / "a.nii", voxels, affine)
        turned = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), ITK[across])
        np.testing.assert_array_equal(
            levels(path), by_percentiles(SimpleITK.GetArrayFromImage(turned)), str(affine)
        )
        across_rows = turned.GetSpacing()
        (first, *_) = read_images(path)
        assert first.pixel_aspect == pytest.approx(across_rows[1] / across_rows[0])


def test_an_oblique_volume_is_shown_along_its_own_axes(tmp_path: Path) -> None:
    turn = np.radians(20)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    voxels = volume(5, 7, 4)
    straight, oblique = (
        levels(saved(tmp_path / "a.nii", voxels, affine)) for affine in (AXIAL, rotation @ AXIAL)
    )
    np.testing.assert_array_equal(straight, oblique)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_that_are_spread_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, held: bool
) -> None:
    """Of an isotropic volume the slices are axial, however it is stored."""
    if not held:
        monkeypatch.setattr(nifti, "_HELD", 0)
    voxels = volume(4, 5, 6, 2)  # forward, upward, rightward
    affine = np.eye(4)[[2, 0, 1, 3]]
    found = levels(saved(tmp_path / f"a{suffix}", voxels, affine))
    for time in range(2):
        expected = by_percentiles(voxels[..., time])[::-1, :, ::-1].transpose(1, 0, 2)
        np.testing.assert_array_equal(found[5 * time : 5 * time + 5], expected)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_of_voxel(tmp_path: Path, kind: Any, order: Any, dtype: str) -> None:
    voxels = volume(6, 5, 4, dtype="f8")
    voxels = (voxels / 8).astype(np.dtype(dtype).newbyteorder(order))
    header = kind.header_class(endianness=order)
    header.set_data_dtype(voxels.dtype)
    image = kind(voxels, AXIAL, header, dtype=voxels.dtype)
    image.header.set_slope_inter(0.5, -20)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    expected = by_percentiles(loaded(path).get_fdata()).transpose(2, 1, 0)
    assert np.abs(levels(path) - expected).max() <= 1  # nibabel scales in another precision
    assert np.ptp(expected) == 255


def test_scaled_integers_are_shown_by_the_range_that_the_file_names(tmp_path: Path) -> None:
    voxels = volume(6, 5, 4)
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(voxels, AXIAL)
    image.header.set_slope_inter(2.0, -1024.0)
    image.header["cal_min"], image.header["cal_max"] = -160, 240
    nib.save(image, path)
    # nibabel stores what gives back the voxels with the scale.
    stored = np.asarray(loaded(path).dataobj)
    np.testing.assert_array_equal(levels(path), windowed(stored, -160, 240).transpose(2, 1, 0))
    assert not any(image.warnings for image in read_images(path))


def codes(path: Path) -> list[str]:
    return [notice.code for notice in read_images(path)[0].warnings]


def test_one_window_for_a_volume_and_it_is_said(tmp_path: Path) -> None:
    """A slice of low values stays dark; each volume of a series in time has its own window."""
    voxels = np.zeros((8, 8, 3, 2), np.uint16)
    voxels[..., 1, 0] = 50
    voxels[..., 2, 0] = volume(8, 8) + 100
    voxels[..., 1] = 10 * voxels[..., 0]
    path = saved(tmp_path / "a.nii", voxels)
    found = levels(path)
    assert found[1].max() < 30
    np.testing.assert_array_equal(found[:3], found[3:])
    assert codes(path) == ["pixels.volume_window"]


def test_voxels_that_are_no_numbers_are_background(tmp_path: Path) -> None:
    voxels = volume(6, 5, 4, dtype="f4")
    voxels[:2] = np.nan
    voxels[2, 0, 0] = np.inf
    path = saved(tmp_path / "a.nii", voxels)
    found = levels(path).transpose(2, 1, 0)
    missing = ~np.isfinite(voxels)
    assert not found[missing].any()
    np.testing.assert_array_equal(found[~missing], by_percentiles(voxels[~missing]))
    assert "pixels.not_finite" in codes(path)


def test_a_background_of_zeros_has_no_part_in_the_window(tmp_path: Path) -> None:
    voxels = np.zeros((20, 20, 5), np.int16)
    voxels[8:10, 8:10, 2] = [[100, 200], [300, 400]]
    found = levels(saved(tmp_path / "a.nii", voxels)).transpose(2, 1, 0)
    np.testing.assert_array_equal(found, by_percentiles(voxels))
    assert 0 < found[8, 9, 2] < found[9, 8, 2] < 255


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume(tmp_path: Path, value: int) -> None:
    path = saved(tmp_path / "a.nii", np.full((4, 4, 2), value, np.int16))
    assert not levels(path).any()
    assert codes(path) == ["pixels.constant"]


def test_colours_are_shown_as_they_are(tmp_path: Path) -> None:
    colours = np.random.default_rng(5).integers(0, 256, (6, 5, 4, 3), np.uint8)
    packed = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    for images in (
        read_images(saved(tmp_path / f"a{suffix}", packed)) for suffix in (".nii", ".nii.gz")
    ):
        for place, image in enumerate(images):
            np.testing.assert_array_equal(image.pixels, colours[:, :, place].transpose(1, 0, 2))


def test_a_file_without_orientation_is_read_with_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", volume(6, 5, 4), None, pixdim=[1, 1, 2, 9, 1, 1, 1, 1])
    (image, *_) = read_images(path)
    assert "pixels.orientation_unknown" in codes(path)
    assert (image.pixels.shape, image.pixel_aspect) == ((5, 6, 3), 2.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [np.nan, 0, 0, 0]},
        {"srow_y": [0, 0, 0, 0]},
        {"srow_z": [0, 0, 1e30, 0]},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 9},
    ],
)
def test_a_useless_orientation_is_none(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = broken(tmp_path / "a.nii", **fields)
    assert "pixels.orientation_unknown" in codes(path)
    assert levels(path).shape == (4, 5, 6)


def broken(path: Path, **fields: Any) -> Path:
    """A file whose header, of a sound file, was changed."""
    saved(path, volume(6, 5, 4))
    data = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("image.unsupported", {"magic": b"ni1"}),
        ("image.unsupported", {"datatype": 32}),
        ("image.unsupported", {"datatype": 1536}),
        ("image.unsupported", {"dim": [5, 2, 2, 2, 1, 3, 1, 1]}),
        ("image.damaged", {"dim": [9, 6, 5, 4, 1, 1, 1, 1]}),
        ("image.damaged", {"dim": [3, 6, -5, 4, 1, 1, 1, 1]}),
        ("image.damaged", {"datatype": 77}),
        ("image.damaged", {"vox_offset": np.nan}),
        ("image.damaged", {"vox_offset": -8}),
        ("image.too_large", {"dim": [3, 32767, 32767, 4, 1, 1, 1, 1]}),
        ("image.too_large", {"dim": [4, 6, 5, 32767, 32767, 1, 1, 1]}),
        ("image.too_large", {"vox_offset": 1e30}),
        ("image.truncated", {"dim": [3, 6, 5, 20000, 1, 1, 1, 1], "pixdim": [1] * 3 + [9] * 5}),
    ],
)
def test_what_is_no_volume_is_refused_and_quotes_nothing(
    tmp_path: Path, code: str, fields: dict[str, Any]
) -> None:
    path = broken(tmp_path / "a.nii", descrip=b"DOE^JANE", **fields)
    with refuses(ImageError, code, str(path)) as caught:
        read_images(path)
    assert "DOE" not in repr(caught.value)
    assert caught.value.__cause__ is None


def cut_plain(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_gzip(path: Path) -> None:
    data = gzip.decompress(path.read_bytes())[:-100]
    path.write_bytes(gzip.compress(data)[:-9])


@pytest.mark.parametrize(("suffix", "cut"), [(".nii", cut_plain), (".nii.gz", cut_gzip)])
def test_whole_slices_of_a_truncated_file_are_read(
    tmp_path: Path, suffix: str, cut: Callable[[Path], None]
) -> None:
    voxels = volume(8, 8, 4, 2)
    path = saved(tmp_path / f"a{suffix}", voxels, cal_min=0, cal_max=1000)
    whole = levels(path)
    cut(path)
    reader = FileReader(ReadingLimits(seconds=60))
    *found, last = read_frames(reader, path)
    reader.close()
    assert (len(found), last) == (7, "image.truncated")
    for frame, expected in zip(found, whole, strict=False):
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(frame.pixels[..., 0], expected)


def test_another_process_reads_the_same_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz", volume(8, 7, 4))
    reader = FileReader(ReadingLimits(seconds=60))
    found = reader.read_all(path)
    reader.close()
    for one, other in zip(found, read_images(path), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.source, one.warnings) == (other.source, other.warnings)
