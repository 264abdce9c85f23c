"""Our pictures against dcmtk's: of pydicom's files, and of what the standard leaves to readers."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import UID, ExplicitVRBigEndian, JPEGLSTransferSyntaxes

from medfocus.engine.io.images import SourceImage
from medfocus.errors import ImageError
from tests.engine.io.read import read_images
from tests.engine.io.test_dicom import RAMP, SHIPPED, TWELVE, dataset, lut, write

PROGRAMS = ("dcmj2pnm", "dcml2pnm")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="needs dcmtk (in Debian: apt-get install dcmtk)"
)
FRAMES = 2  # compared of each file
# The largest difference in grey levels where it is over 1 (docs/pixels.md says why).
DIFFERENT = {"rtdose_expb.dcm": 251, "rtdose_expb_1frame.dcm": 248}


def window(ds: pydicom.Dataset, image: SourceImage) -> list[str]:
    """The options with which dcmtk takes the file's first window; by default it takes none."""
    if not ds.PhotometricInterpretation.startswith("MONOCHROME"):
        return []
    codes = {notice.code for notice in image.warnings}
    if codes & {"pixels.no_window", "pixels.constant_after_windowing"}:
        return ["+Wm"]
    return ["+Wl", "1"] if ds.get("VOILUTSequence") else ["+Wi", "1"]


def difference(path: Path, image: SourceImage, frame: int = 0) -> int | None:
    """The largest difference from dcmtk's picture without overlays; None if it reads none."""
    ds = pydicom.dcmread(path, force=True)
    program = PROGRAMS[ds.file_meta.get("TransferSyntaxUID") in JPEGLSTransferSyntaxes]
    options = ["-O", "+F", str(frame + 1), *window(ds, image)]
    done = subprocess.run([program, *options, path], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        return None
    theirs = np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"))
    return int(np.abs(image.pixels.astype(int) - theirs).max())


def test_pydicoms_files_look_as_in_dcmtk() -> None:
    largest: dict[str, int] = {}
    for path in sorted(SHIPPED.glob("*.dcm")):
        try:
            frames = read_images(path)[:FRAMES]
        except ImageError:
            continue
        found = [difference(path, image, index) for index, image in enumerate(frames)]
        if None not in found:
            largest[path.name] = max(each for each in found if each is not None)
    assert {name: found for name, found in largest.items() if found > 1} == DIFFERENT
    assert len(largest) >= 45


WINDOW = {"WindowCenter": 2000, "WindowWidth": 3000}


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
@pytest.mark.parametrize("voi", [WINDOW, {}])
def test_presentation_lut_shapes(
    tmp_path: Path, interpretation: str, shape: str | None, voi: dict[str, Any]
) -> None:
    ds = dataset(TWELVE, BitsStored=12, PhotometricInterpretation=interpretation, **voi)
    if shape:
        ds.PresentationLUTShape = shape
    path = write(ds, tmp_path)
    (image,) = read_images(path)
    assert difference(path, image) in (0, 1)
    ordinary = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[interpretation]
    contradicts = shape not in (None, ordinary)
    assert contradicts == any(n.code == "pixels.presentation_lut_shape" for n in image.warnings)


@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian])
@pytest.mark.parametrize("pixels", [TWELVE, RAMP])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_high_bits(tmp_path: Path, syntax: UID | None, pixels: np.ndarray, high: int) -> None:
    centre = 2000 if pixels is TWELVE else 0
    noise = np.random.default_rng(3).integers(0, 2**16, pixels.shape).astype(np.uint16)
    mask = np.uint16(0xFFF << (high - 11))
    words = (pixels.view(np.uint16) << (high - 11)) & mask | noise & ~mask
    ds = dataset(words, BitsStored=12, WindowCenter=centre, WindowWidth=3000)
    ds.HighBit, ds.PixelRepresentation = high, int(pixels is RAMP)
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = words.astype(">u2").tobytes()
    path = write(ds, tmp_path)
    (image,) = read_images(path)
    assert difference(path, image) in (0, 1)
    assert len(np.unique(image.pixels)) > 200


@pytest.mark.parametrize("intercept", [0, -1000])
def test_a_slope_of_0_is_ignored(tmp_path: Path, intercept: float) -> None:
    ds = dataset(TWELVE, BitsStored=12, RescaleSlope=0, RescaleIntercept=intercept, **WINDOW)
    path = write(ds, tmp_path)
    (image,) = read_images(path)
    assert difference(path, image) in (0, 1)
    assert [notice.code for notice in image.warnings] == ["pixels.rescale_ignored"]


def test_a_voi_lut(tmp_path: Path) -> None:
    table = np.rint(np.linspace(0, 1, 3000) ** 2 * 65535).astype(np.uint16)
    ds = dataset(TWELVE, BitsStored=12, VOILUTSequence=[lut(500, 16, table, "US")])
    path = write(ds, tmp_path)
    (image,) = read_images(path)
    assert difference(path, image) in (0, 1)
