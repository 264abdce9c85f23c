"""Rendering DICOM: padding, useless transforms, pixel aspect, memory; against PS3.3 and PS3.5."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from medfocus.engine.io.dicom_display import rendered
from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.engine.io.test_dicom import RAMP, TWELVE, dataset, eight_bits, item, lut, write
from tests.errors import refuses

WINDOW = {"WindowCenter": 2000, "WindowWidth": 3000}


def shown(ds: Dataset, folder: Path, *codes: str) -> np.ndarray:
    """The one frame's grey levels, with exactly these warnings."""
    (image,) = read_images(write(ds, folder))
    assert tuple(notice.code for notice in image.warnings) == codes
    return image.pixels[..., 0]


def windowed(values: np.ndarray) -> np.ndarray:
    return (values - (2000 - 0.5)) / (3000 - 1) + 0.5  # PS3.3 C.11.2.1.2.1


# Stored bits (PS3.5 8.1.1; tests/engine/io/test_dcmtk.py has more)


def test_bits_of_rle_end_at_high_bit(tmp_path: Path) -> None:
    ds = dataset(TWELVE << 4, BitsStored=12, **WINDOW)
    ds.HighBit = 15
    ds.compress(RLELossless, encoding_plugin="pydicom")
    np.testing.assert_array_equal(shown(ds, tmp_path), eight_bits(windowed(TWELVE)))


@pytest.mark.parametrize("high", [3, 16, None])
def test_an_impossible_high_bit_is_ignored(tmp_path: Path, high: int | None) -> None:
    ds = dataset(TWELVE, BitsStored=12, **WINDOW)
    ds.HighBit = high
    np.testing.assert_array_equal(shown(ds, tmp_path), eight_bits(windowed(TWELVE)))


def test_colour_ends_at_high_bit_too(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 4096, (10, 14, 3), dtype=np.uint16)
    ds = dataset(rgb << 4, BitsStored=12)
    ds.HighBit = 15
    (image,) = read_images(write(ds, tmp_path))
    np.testing.assert_array_equal(image.pixels, eight_bits(rgb / 4095))


# Padding (PS3.3 C.7.5.1.1.2)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095])
@pytest.mark.parametrize("voi", ["none", "window", "lut"])
def test_padding_is_background(tmp_path: Path, interpretation: str, padding: int, voi: str) -> None:
    stored = np.clip(TWELVE, 700, 3300)
    rim = np.ones(stored.shape, np.bool_)
    rim[8:-8, 8:-8] = False
    stored[rim] = padding
    ds = dataset(stored, BitsStored=12, PixelPaddingValue=padding)
    ds.PhotometricInterpretation = interpretation
    inside = stored[~rim].astype(float)
    levels = (stored - inside.min()) / np.ptp(inside)
    if voi == "window":
        ds.WindowCenter, ds.WindowWidth = 2000, 3000
        levels = windowed(stored)
    if voi == "lut":
        table = np.arange(4096, dtype=np.uint16)[::-1].copy()
        ds.VOILUTSequence = [lut(0, 12, table, "US")]
        levels = (4095 - stored) / 4095
    levels = np.where(rim, 0, 1 - levels if interpretation == "MONOCHROME1" else levels)
    codes = ("pixels.no_window",) if voi == "none" else ()
    np.testing.assert_array_equal(shown(ds, tmp_path, *codes), eight_bits(levels))


def test_where_all_is_padding_it_says_nothing(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=4095, **WINDOW)
    found = shown(ds, tmp_path, "pixels.padding_ignored")
    np.testing.assert_array_equal(found, eight_bits(windowed(TWELVE)))


@pytest.mark.parametrize(("kind", "dtype"), [("Float", np.float32), ("DoubleFloat", np.float64)])
def test_float_padding(tmp_path: Path, kind: str, dtype: Any) -> None:
    values = np.linspace(-1, 3, 4096).reshape(64, 64).astype(dtype)
    values[:8] = -1000
    ds = dataset(TWELVE, BitsAllocated=8 * values.itemsize)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    setattr(ds, f"{kind}PixelData", values.tobytes())
    setattr(ds, f"{kind}PixelPaddingValue", -1000.0)
    low, high = float(values[8:].min()), float(values.max())
    expected = eight_bits((values.astype(float) - low) / (high - low))
    np.testing.assert_array_equal(shown(ds, tmp_path, "pixels.no_window"), expected)


# Transforms that leave nothing to see


@pytest.mark.parametrize("slope", ["0", "0.0", "nan"])
@pytest.mark.parametrize("intercept", [0, -1000])
def test_a_rescale_without_slope_is_ignored(tmp_path: Path, slope: str, intercept: float) -> None:
    ds = dataset(TWELVE, BitsStored=12, RescaleIntercept=intercept, **WINDOW)
    ds.add_new("RescaleSlope", "DS", slope)
    found = shown(ds, tmp_path, "pixels.rescale_ignored")
    np.testing.assert_array_equal(found, eight_bits(windowed(TWELVE)))


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "voi",
    [
        {"WindowCenter": 40, "WindowWidth": 80},
        {"WindowCenter": 40, "WindowWidth": 80, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [lut(0, 12, np.zeros(16, np.uint16), "US")]},
    ],
)
def test_what_is_constant_after_windowing_has_its_own_range(
    tmp_path: Path, interpretation: str, voi: dict[str, Any]
) -> None:
    ds = dataset(TWELVE, BitsStored=12, RescaleSlope=1, RescaleIntercept=-5000, **voi)
    ds.PhotometricInterpretation = interpretation
    levels = TWELVE / 4095
    expected = eight_bits(1 - levels if interpretation == "MONOCHROME1" else levels)
    found = shown(ds, tmp_path, "pixels.constant_after_windowing")
    np.testing.assert_array_equal(found, expected)


def test_padding_does_not_count_as_seen(tmp_path: Path) -> None:
    """Padding and the rest differ after windowing, but all that is no padding is equal."""
    ds = dataset(RAMP, PixelPaddingValue=-2000, WindowCenter=-2500, WindowWidth=900)
    found = shown(ds, tmp_path, "pixels.constant_after_windowing")
    expected = eight_bits((RAMP + 1999) / (2095 + 1999))
    expected[RAMP == -2000] = 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_one_value_is_black(tmp_path: Path, interpretation: str) -> None:
    ds = dataset(np.full((8, 8), 700, np.uint16), **WINDOW)
    ds.PhotometricInterpretation = interpretation
    assert not shown(ds, tmp_path, "pixels.constant").any()


# Attributes with one reading


@pytest.mark.parametrize("colour", [False, True])
def test_lower_case_and_missing_samples_per_pixel(tmp_path: Path, colour: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    ds = dataset(rgb) if colour else dataset(TWELVE, BitsStored=12, **WINDOW)
    expected = read_images(write(ds, tmp_path))[0].pixels
    del ds.SamplesPerPixel
    ds.add_new("PhotometricInterpretation", "CS", ds.PhotometricInterpretation.lower())
    (image,) = read_images(write(ds, tmp_path))
    np.testing.assert_array_equal(image.pixels, expected)
    codes = [notice.code for notice in image.warnings]
    assert codes == ["pixels.lower_case", "pixels.samples_assumed"]


def test_three_samples_are_not_taken_for_one(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    del ds.SamplesPerPixel
    with refuses(ImageError, "image.truncated"):
        read_images(write(ds, tmp_path))


# Pixel aspect (PS3.3 C.7.6.3.1.7, 10.7.1.3)


@pytest.mark.parametrize(
    ("attributes", "aspect"),
    [
        ({}, 1),
        ({"PixelAspectRatio": [1, 3]}, 1 / 3),
        ({"PixelAspectRatio": [4, 3], "PixelSpacing": [1, 9]}, 4 / 3),
        ({"PixelSpacing": [0.5, 0.25], "ImagerPixelSpacing": [1, 1]}, 2),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, 0.5),
        ({"NominalScannedPixelSpacing": [0.3, 0.1]}, 3),
        ({"PixelAspectRatio": [0, 3], "PixelSpacing": [1, 2]}, 0.5),
        ({"PixelSpacing": [0.5]}, 1),
        ({"PixelSpacing": ["nan", 1]}, 1),
        ({"PixelSpacing": [-1, 1]}, 1),
    ],
)
def test_pixel_aspect(tmp_path: Path, attributes: dict[str, Any], aspect: float) -> None:
    ds = dataset(TWELVE, BitsStored=12, **WINDOW, **attributes)
    (image,) = read_images(write(ds, tmp_path))
    assert image.pixel_aspect == pytest.approx(aspect, rel=1e-12)
    assert image.pixels.shape == (64, 64, 3)


def test_a_malformed_spacing_does_not_cost_the_image(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, **WINDOW)
    path = write(ds, tmp_path)
    spacing = b"\x28\x00\x30\x00DS\x08\x00wide\\tal"
    at = path.read_bytes().index(b"\x28\x00\x00\x01US")  # BitsAllocated
    path.write_bytes(path.read_bytes()[:at] + spacing + path.read_bytes()[at:])
    assert read_images(path)[0].pixel_aspect == 1


def test_pixel_aspect_of_functional_groups(tmp_path: Path) -> None:
    ds = dataset(np.stack([TWELVE] * 2), BitsStored=12, PixelSpacing=[1, 1], **WINDOW)
    ds.PerFrameFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[item(PixelSpacing=[2, 1])]),
        item(PixelMeasuresSequence=[item(PixelSpacing=[1, 4])]),
    ]
    assert [image.pixel_aspect for image in read_images(write(ds, tmp_path))] == [2, 0.25]


# Memory

SIDE = 1500
ALSO = 20 * 2**20


@pytest.mark.parametrize(
    ("dtype", "channels", "attributes"),
    [
        (np.uint16, 1, WINDOW),
        (np.int16, 1, {"BitsStored": 12}),
        (np.uint32, 1, {}),
        (np.float32, 1, WINDOW),
        (np.uint16, 3, {}),
    ],
)
def test_rendering_needs_no_more_than_it_says(
    dtype: Any, channels: int, attributes: dict[str, Any]
) -> None:
    shape = (SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels)
    values = np.random.default_rng(0).integers(0, 2**15, shape).astype(dtype)
    bits = 8 * values.itemsize
    ds = pydicom.FileDataset("", Dataset(), file_meta=pydicom.dataset.FileMetaDataset())
    ds.set_original_encoding(False, True)
    for keyword, value in {"BitsStored": bits, "PixelPaddingValue": 0, **attributes}.items():
        setattr(ds, keyword, value)
    interpretation = "RGB" if channels == 3 else "MONOCHROME1"
    properties = {"photometric_interpretation": interpretation, "bits_stored": ds.BitsStored}
    tracemalloc.start()
    frame = rendered(values, properties, ds, 0, "image")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert frame.pixels.shape == (SIDE, SIDE, 3)
    assert peak <= 4 * SIDE**2 + 2 * values.nbytes + ALSO
