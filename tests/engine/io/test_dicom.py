"""DICOM files: rendering against PS3.3 and pydicom, what is refused, and privacy."""

import io
import logging
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_windowing
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.errors import refuses

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
WITHOUT_PIXELS = [
    "ExplVR_BigEndNoMeta.dcm",
    "ExplVR_LitEndNoMeta.dcm",
    "UN_sequence.dcm",
    "empty_charset_LEI.dcm",
    "no_meta_group_length.dcm",
    "priv_SQ.dcm",
    "reportsi.dcm",
    "reportsi_with_empty_number_tags.dcm",
    "rtplan.dcm",
    "rtplan_truncated.dcm",
    "rtstruct.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
]
UNREADABLE = {  # the code, and a word of the problem
    # Four bytes of the code stream are overwritten.
    "JPEG2000-embedded-sequence-delimiter.dcm": (
        "image.damaged",
        "JPEG 2000 Image Compression",
    ),
    "MR_truncated.dcm": ("image.truncated", "frame 0"),
    "badVR.dcm": ("dicom.malformed", "NumberOfFrames"),  # it is "1A"
    "meta_missing_tsyntax.dcm": ("dicom.malformed", "Rows"),
    "nested_priv_SQ.dcm": ("dicom.malformed", "Rows"),
    # An additional first byte shifts the whole data set.
    "no_meta.dcm": ("dicom.no_pixels", "pixel data"),
}
READABLE = sorted(
    {path.name for path in SHIPPED.glob("*.dcm")} - set(WITHOUT_PIXELS) - set(UNREADABLE)
)


def dataset(pixels: np.ndarray, **attributes: Any) -> Dataset:
    """A secondary capture of (F,) H, W (, 3) pixels; attributes override."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    colour = pixels.shape[-1] == 3
    frame = pixels.shape[:-1] if colour else pixels.shape
    ds.Rows, ds.Columns = frame[-2:]
    if len(frame) == 3:
        ds.NumberOfFrames = frame[0]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    ds.PixelData = data + bytes(len(data) % 2)
    ds["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    return ds


def item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def lut(first: int, bits: int, table: np.ndarray, vr: str) -> Dataset:
    ds = item(LUTDescriptor=[len(table) % 2**16, first, bits])
    ds.add_new("LUTData", vr, table.tobytes() if vr == "OW" else table.tolist())
    return ds


def write(ds: Dataset, folder: Path, name: str = "image.dcm") -> Path:
    path = folder / name
    ds.save_as(path, enforce_file_format=True)
    return path


def grey(ds: Dataset, folder: Path) -> np.ndarray:
    """The one frame's grey levels, checked to be grey and free of warnings."""
    (image,) = read_images(write(ds, folder))
    assert image.warnings == ()
    assert (image.pixels == image.pixels[..., :1]).all()
    levels: np.ndarray = image.pixels[..., 0]
    return levels


def eight_bits(levels: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(np.clip(levels, 0, 1) * 255)
    return rounded


RAMP = np.arange(-2000, 2096, dtype=np.int16).reshape(64, 64)
TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)


# The files that pydicom ships


@pytest.mark.parametrize("name", READABLE)
def test_shipped_images_are_read(name: str) -> None:
    frames = read_images(SHIPPED / name)
    ds = pydicom.dcmread(SHIPPED / name)
    assert len(frames) == int(ds.get("NumberOfFrames") or 1)
    for image in frames:
        assert image.pixels.shape == (ds.Rows, ds.Columns, 3)
        assert image.pixels.dtype == np.uint8
        assert np.ptp(image.pixels) > 20
    if ds.SamplesPerPixel == 3 and ds.BitsStored == 8 and ds.PhotometricInterpretation == "RGB":
        expected = ds.pixel_array if len(frames) == 1 else ds.pixel_array[0]
        np.testing.assert_array_equal(frames[0].pixels, expected)


@pytest.mark.parametrize(("name", "error"), UNREADABLE.items())
def test_shipped_files_that_cannot_be_read(name: str, error: tuple[str, str]) -> None:
    code, word = error
    with refuses(ImageError, code, name) as caught:
        read_images(SHIPPED / name)
    assert word in caught.value.problem


@pytest.mark.parametrize("name", WITHOUT_PIXELS)
def test_shipped_files_without_pixels(name: str) -> None:
    with refuses(ImageError, "dicom.no_pixels", name):
        read_images(SHIPPED / name)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_expb.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_padded.dcm", "MR_small.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_32bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
        ("SC_rgb_rle_2frame.dcm", "SC_rgb_rle_32bit_2frame.dcm"),
        ("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd.dcm"),
        ("SC_rgb_jpeg_dcmd.dcm", "SC_rgb_jpeg.dcm"),
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),
        ("rtdose_expb.dcm", "rtdose.dcm"),
        ("rtdose_rle.dcm", "rtdose.dcm"),
        ("rtdose_rle_1frame.dcm", "rtdose_1frame.dcm"),
    ],
)
def test_lossless_encodings_of_the_same_image_are_equal(name: str, twin: str) -> None:
    ours, theirs = read_images(SHIPPED / name), read_images(SHIPPED / twin)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.warnings == other.warnings


@pytest.mark.parametrize("name", ["MR_small.dcm", "693_J2KI.dcm", "examples_overlay.dcm"])
def test_shipped_windows_equal_pydicoms(name: str) -> None:
    ds = pydicom.dcmread(SHIPPED / name)
    shown = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
    scaled = low * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    levels = (shown - scaled) / ((2**ds.BitsStored - 1) * float(ds.get("RescaleSlope", 1)))
    (image,) = read_images(SHIPPED / name)
    assert np.abs(image.pixels[..., 0] - levels * 255).max() <= 0.5 + 1e-9


def test_a_palette_is_applied() -> None:
    ds = pydicom.dcmread(SHIPPED / "examples_palette.dcm")
    rgb = apply_color_lut(ds.pixel_array, ds)
    (image,) = read_images(SHIPPED / "examples_palette.dcm")
    np.testing.assert_array_equal(image.pixels, np.rint(rgb / 65535 * 255))


# Grey levels, against PS3.3 C.11.1 and C.11.2 in float64


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (-600.5, 1500), (0, 1), (100, 2)])
def test_linear_window_after_rescale(
    tmp_path: Path, interpretation: str, centre: float, width: float
) -> None:
    ds = dataset(
        RAMP,
        PhotometricInterpretation=interpretation,
        RescaleSlope=0.5,
        RescaleIntercept=-24,
        WindowCenter=[centre, 7],
        WindowWidth=[width, 9],
    )
    expected = np.empty(RAMP.shape)
    for position, stored in np.ndenumerate(RAMP):
        x = float(stored) * 0.5 - 24
        if x <= centre - 0.5 - (width - 1) / 2:
            y = 0.0
        elif x > centre - 0.5 + (width - 1) / 2:
            y = 1.0
        else:
            y = (x - (centre - 0.5)) / (width - 1) + 0.5
        expected[position] = 1 - y if interpretation == "MONOCHROME1" else y
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(expected))


def test_twelve_bit_window_and_negative_slope(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    expected = (TWELVE - 2047.5) / 4095 + 0.5
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(expected))
    ds.RescaleSlope, ds.RescaleIntercept = -1, 4095
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(1 - expected))


def test_linear_exact_and_sigmoid(tmp_path: Path) -> None:
    ds = dataset(RAMP, WindowCenter=50, WindowWidth=350, VOILUTFunction="LINEAR_EXACT")
    x = RAMP.astype(np.float64)
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits((x - 50) / 350 + 0.5))
    ds.VOILUTFunction = "SIGMOID"
    expected = 1 / (1 + np.exp(-4 * (x - 50) / 350))
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(expected))


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("first", "bits"), [(0, 12), (500, 8), (1000, 16)])
def test_voi_lut(tmp_path: Path, vr: str, syntax: UID, first: int, bits: int) -> None:
    """Also with more entries than 8 bits can index, where pydicom's own index wraps around."""
    table = np.rint(np.linspace(0, 1, 3000) ** 2 * (2**bits - 1)).astype(np.uint16)
    ds = dataset(TWELVE, BitsStored=12, VOILUTSequence=[lut(first, bits, table, vr)])
    ds.WindowCenter, ds.WindowWidth = 5, 5  # an alternative, and not the first choice
    ds.file_meta.TransferSyntaxUID = syntax
    index = np.clip(TWELVE.astype(int) - first, 0, 2999)
    expected = table[index] / (2**bits - 1)
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(expected))


def test_voi_lut_of_signed_values_after_rescale(tmp_path: Path) -> None:
    table = np.arange(256, dtype=np.uint16)[::-1].copy()
    voi = item()
    voi.add_new("LUTDescriptor", "SS", [256, -100, 8])
    voi.add_new("LUTData", "US", table.tolist())
    ds = dataset(RAMP, RescaleSlope=1, RescaleIntercept=-7, VOILUTSequence=[voi])
    index = np.clip(RAMP.astype(int) - 7 + 100, 0, 255)
    np.testing.assert_array_equal(grey(ds, tmp_path), table[index])


def test_modality_lut_then_window(tmp_path: Path) -> None:
    table = (np.arange(4096, dtype=np.uint16)[::-1] * 3).copy()
    ds = dataset(TWELVE, BitsStored=12, WindowCenter=6000, WindowWidth=8000)
    modality = lut(0, 16, table, "US")
    modality.ModalityLUTType = "US"
    ds.ModalityLUTSequence = [modality]
    expected = (table[TWELVE] - 5999.5) / 7999 + 0.5
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(expected))


def test_a_lut_of_all_65536_entries(tmp_path: Path) -> None:
    stored = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    table = np.arange(65536, dtype=np.uint16)[::-1].copy()
    ds = dataset(stored, VOILUTSequence=[lut(0, 16, table, "OW")])
    np.testing.assert_array_equal(grey(ds, tmp_path), eight_bits(table[stored] / 65535))


@pytest.mark.parametrize("padding", [-2000, 63536])  # the same 16 bits
def test_without_a_window_padding_is_excluded_from_the_range(tmp_path: Path, padding: int) -> None:
    stored = np.clip(RAMP, -100, 900)
    stored[:10] = -2000
    ds = dataset(stored)
    ds.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    (image,) = read_images(write(ds, tmp_path))
    expected = eight_bits((stored + 100.0) / 1000)
    np.testing.assert_array_equal(image.pixels[..., 0], expected)
    assert "min-max normalised" in image.warnings[0]


def test_padding_ranges(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, PixelPaddingValue=3000, PixelPaddingRangeLimit=4095)
    (image,) = read_images(write(ds, tmp_path))
    expected = np.where(TWELVE < 3000, eight_bits(TWELVE / 2999), 0)
    np.testing.assert_array_equal(image.pixels[..., 0], expected)


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": 0.5},
        {"WindowCenter": 5},
        {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
    ],
)
def test_unusable_windows_are_reported(tmp_path: Path, window: dict[str, Any]) -> None:
    (image,) = read_images(write(dataset(TWELVE, BitsStored=12, **window), tmp_path))
    np.testing.assert_array_equal(image.pixels[..., 0], eight_bits(TWELVE / 4095))
    assert "no usable window" in image.warnings[0]


def test_float_pixels(tmp_path: Path) -> None:
    values = np.linspace(-1, 3, 4096, dtype=np.float32).reshape(64, 64)
    ds = dataset(TWELVE, WindowCenter=1, WindowWidth=2, VOILUTFunction="LINEAR_EXACT")
    ds.BitsAllocated = 32
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.FloatPixelData = values.tobytes()
    expected = eight_bits((values.astype(np.float64) - 1) / 2 + 0.5)
    np.testing.assert_array_equal(grey(ds, tmp_path), expected)
    values[3, 3] = np.nan
    ds.FloatPixelData = values.tobytes()
    with refuses(ImageError, "image.not_finite"):
        read_images(write(ds, tmp_path))


def test_functional_groups_of_enhanced_multi_frames_apply_per_frame(tmp_path: Path) -> None:
    stored = np.stack([TWELVE, TWELVE, TWELVE])
    windows = [(1000, 500), (2000, 1000), (300, 100)]
    rescales = [(1, 0), (2, -50), (0.25, 10)]
    ds = dataset(stored, BitsStored=12, WindowCenter=1, WindowWidth=2)
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=width)],
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=intercept)],
        )
        for (centre, width), (slope, intercept) in zip(windows, rescales, strict=True)
    ]
    path = write(ds, tmp_path)
    frames = read_images(path)
    assert [image.source for image in frames] == [f"{path}#{k}" for k in range(3)]
    for k, image in enumerate(frames):
        (centre, width), (slope, intercept) = windows[k], rescales[k]
        x = TWELVE * float(slope) + intercept
        expected = eight_bits((x - (centre - 0.5)) / (width - 1) + 0.5)
        np.testing.assert_array_equal(image.pixels[..., 2], expected)

    shared = ds.PerFrameFunctionalGroupsSequence.pop(0)
    del ds.PerFrameFunctionalGroupsSequence
    ds.SharedFunctionalGroupsSequence = [shared]
    for image in read_images(write(ds, tmp_path)):
        np.testing.assert_array_equal(image.pixels, frames[0].pixels)


# Colour


def test_rgb_planes_depths_and_ybr(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    (image,) = read_images(write(dataset(rgb), tmp_path))
    np.testing.assert_array_equal(image.pixels, rgb)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    (image,) = read_images(write(dataset(rgb, PlanarConfiguration=1, PixelData=planes), tmp_path))
    np.testing.assert_array_equal(image.pixels, rgb)
    for dtype, factor in ((np.uint16, 257), (np.uint32, 257 * 65537)):
        deep = (rgb * np.uint64(factor)).astype(dtype)
        (image,) = read_images(write(dataset(deep), tmp_path))
        np.testing.assert_array_equal(image.pixels, rgb)
    (image,) = read_images(write(dataset(rgb.astype(np.uint16) * 16, BitsStored=12), tmp_path))
    np.testing.assert_array_equal(image.pixels, np.rint(rgb * 16.0 / 4095 * 255))

    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = write(dataset(ybr, PhotometricInterpretation="YBR_FULL"), tmp_path)
    y, cb, cr = (ybr[..., k].astype(np.float64) - (0, 128, 128)[k] for k in range(3))
    green = y - (0.299 * 1.402 * cr + 0.114 * 1.772 * cb) / 0.587  # PS3.3 C.7.6.3.1.2, solved
    expected = np.stack([y + 1.402 * cr, green, y + 1.772 * cb], axis=-1).clip(0, 255)
    assert np.abs(read_images(path)[0].pixels - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_palettes_of_either_byte_order(tmp_path: Path, syntax: UID) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tables = np.random.default_rng(1).integers(0, 65536, (3, 200))
    ds = dataset(stored, PhotometricInterpretation="PALETTE COLOR")
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [200, 30, 16])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", table.astype(order).tobytes())
    ds.file_meta.TransferSyntaxUID = syntax
    (image,) = read_images(write(ds, tmp_path))
    expected = tables[:, np.clip(stored.astype(int) - 30, 0, 199)].transpose(1, 2, 0)
    np.testing.assert_array_equal(image.pixels, eight_bits(expected / 65535))


def test_two_frames_of_jpeg_2000_colour(tmp_path: Path) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    ds = dataset(frames, PhotometricInterpretation="YBR_RCT")
    streams = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG2000", mct=1, no_jp2=True)
        streams.append(buffer.getvalue())
    ds.PixelData = encapsulate(streams)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    for image, frame in zip(read_images(write(ds, tmp_path)), frames, strict=True):
        np.testing.assert_array_equal(image.pixels, frame)


# What is recognised, and what is refused


def test_dicom_is_recognised_by_content_by_suffix_or_without_one(tmp_path: Path) -> None:
    ds = dataset(TWELVE, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    expected = grey(ds, tmp_path)
    whole = (tmp_path / "image.dcm").read_bytes()
    start = whole.index(b"\x08\x00\x16\x00")  # only the data set: no preamble, no file meta
    for name, content in {
        "scan.bin": whole,
        "scan": whole,
        "bare.dcm": whole[start:],
        "bare.DICOM": whole[start:],
        "bare": whole[start:],
    }.items():
        (tmp_path / name).write_bytes(content)
        (image,) = read_images(tmp_path / name)
        np.testing.assert_array_equal(image.pixels[..., 0], expected)
    for name in ("notes", "notes.dcm"):
        (tmp_path / name).write_text("nothing to see here, and at some length\n" * 30)
        with pytest.raises(ImageError) as caught:
            read_images(tmp_path / name)
        assert caught.value.code in ("dicom.no_pixels", "dicom.malformed")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (MPEG2MPML, "(MPEG2 Main Profile / Main Level)"),
        (UID("1.2.826.0.1.3680043.9.9999.1"), "(unknown)"),
    ],
)
def test_transfer_syntaxes_without_a_decoder_are_named(
    tmp_path: Path, syntax: UID, name: str
) -> None:
    ds = dataset(TWELVE)
    ds.PixelData = encapsulate([b"\0\0"])
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "image.dcm"
    ds.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    with refuses(ImageError, "dicom.transfer_syntax") as caught:
        read_images(path)
    assert name in caught.value.problem


def test_the_limit_is_one_frames(tmp_path: Path) -> None:
    path = write(dataset(np.stack([TWELVE] * 3)), tmp_path)
    assert len(read_images(path, max_pixels=4096)) == 3
    with refuses(ImageError, "image.too_large"):
        read_images(path, max_pixels=4095)
    huge = dataset(TWELVE, Rows=65535, Columns=65535, NumberOfFrames=2000)
    with refuses(ImageError, "image.too_large"):
        read_images(write(huge, tmp_path))


@pytest.mark.parametrize("marked", [True, False])
def test_deflate_bombs_are_refused(tmp_path: Path, marked: bool) -> None:
    ds = dataset(TWELVE)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = write(ds, tmp_path)
    assert len(read_images(path)) == 1
    ds.add_new(0x7FE10010, "OB", bytes(300_000))
    path = write(ds, tmp_path)
    if not marked:
        path.write_bytes(path.read_bytes()[132:])
    with refuses(ImageError, "image.too_large"):
        read_images(path, max_pixels=10_000)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm", "image_dfl.dcm"])
def test_every_truncation_is_an_image_error(tmp_path: Path, name: str) -> None:
    whole = (SHIPPED / name).read_bytes()
    path = tmp_path / "cut.dcm"
    for kept in range(1, len(whole) - 200, len(whole) // 40):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageError):
            read_images(path)


# Privacy

CANARY = "CANARY"


def poisoned(spoilt: str | None) -> Dataset:
    """A data set whose every text is CANARY; the attribute `spoilt` is malformed with it."""
    ds = dataset(TWELVE, BitsStored=12)
    person = {
        "PatientName": "PN", "PatientID": "LO", "PatientBirthDate": "DA", "PatientAge": "AS",
        "StudyDate": "DA", "StudyTime": "TM", "StudyInstanceUID": "UI", "SOPInstanceUID": "UI",
        "SOPClassUID": "UI", "SpecificCharacterSet": "CS", "PatientWeight": "DS",
        "SeriesNumber": "IS", "InstitutionName": "LO", "AcquisitionDateTime": "DT",
    }  # fmt: skip
    ds.preamble = bytes(128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, vr in person.items():
            ds.add(raw(keyword, vr))
        ds.file_meta.ImplementationVersionName = CANARY
        ds.file_meta.add(raw("MediaStorageSOPInstanceUID", "UI"))
        if spoilt == "TransferSyntaxUID":
            ds.file_meta.TransferSyntaxUID = UID(f"1.2.{CANARY}")
        elif spoilt:
            ds.add(raw(spoilt, {"Rows": "US", "VOILUTSequence": "LO"}.get(spoilt, "CS")))
    return ds


def raw(keyword: str, vr: str) -> pydicom.DataElement:
    value = (CANARY * 2).encode()
    tag = pydicom.tag.Tag(keyword)
    return pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        "BitsAllocated",
        "BitsStored",
        "NumberOfFrames",
        "PhotometricInterpretation",
        "PixelPaddingValue",
        "RescaleSlope",
        "Rows",
        "TransferSyntaxUID",
        "VOILUTFunction",
        "VOILUTSequence",
        "WindowCenter",
        "WindowWidth",
    ],
)
@pytest.mark.parametrize("cut", [0, 300, 8400])
def test_no_value_leaves_the_data_set(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    spoilt: str | None,
    cut: int,
) -> None:
    path = tmp_path / "image.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        poisoned(spoilt).save_as(path, implicit_vr=False, little_endian=True)
    path.write_bytes(path.read_bytes()[: -cut or None])
    assert CANARY.encode() in path.read_bytes()
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    capfd.readouterr()
    output = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for image in read_images(path):
                output += " ".join(image.warnings)
        except ImageError as error:
            output += "".join(traceback.format_exception(error))
    output += " ".join(str(warning.message) for warning in caught)
    output += caplog.text + " ".join(capfd.readouterr())
    assert CANARY not in output
    assert caught == []
    assert caplog.records == []


def test_personal_attributes_are_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Dataset] = []
    original = pydicom.dcmread

    def recording(*arguments: Any, **options: Any) -> Dataset:
        parsed.append(original(*arguments, **options))
        return parsed[-1]

    monkeypatch.setattr(pydicom, "dcmread", recording)
    path = write(dataset(TWELVE, PatientName=CANARY, PatientID=CANARY), tmp_path)
    read_images(path)
    (ds,) = parsed
    assert "Rows" in ds
    assert "PatientName" not in ds
    assert "PatientID" not in ds


def test_pydicom_itself_would_reveal_the_values(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Otherwise the test above would show nothing."""
    path = tmp_path / "image.dcm"
    poisoned("RescaleSlope").save_as(path, implicit_vr=False, little_endian=True)
    warnings.resetwarnings()
    ds = pydicom.dcmread(path)
    assert CANARY in str(ds.PatientName)
    _ = ds.StudyInstanceUID
    assert any(CANARY in str(warning.message) for warning in recwarn)
