"""Small files that claim to be huge, or become so: an error of that image, in bounded memory."""

import gzip
import io
import struct
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medfocus.engine.io.reading.limits import ReadingLimits
from tests.engine.io.test_images import png_header
from tests.serving.api.test_classify import png
from tests.serving.process import ServiceProcess

INFLATED = 2**29  # bytes that a bomb becomes
MOST_MEMORY = 2**28  # by which all processes together may grow


def zeros(wbits: int, before: bytes = b"") -> bytes:
    """`INFLATED` zeros after other bytes; 15 for zlib, -15 for plain deflate, 31 for gzip."""
    compressor = zlib.compressobj(9, wbits=wbits)
    first, block = (
        compressor.compress(data)
        + compressor.flush(zlib.Z_FULL_FLUSH)  # so that it may be repeated
        for data in (before, bytes(2**20))
    )
    return first + block * (INFLATED // 2**20) + compressor.flush()


def png_bomb() -> bytes:
    """Pixels of a size that is allowed, whose compressed data go on."""
    whole = png(1)
    at = whole.index(b"IDAT") - 4
    data = b"IDAT" + zeros(15)
    crc = zlib.crc32(data).to_bytes(4, "big")
    return whole[:at] + (len(data) - 4).to_bytes(4, "big") + data + crc + whole[-12:]


def tiff_bomb() -> bytes:
    """A strip of half a gigabyte in a page of 5 kB."""
    file = io.BytesIO()
    pixels = np.arange(2500, dtype=np.uint16).reshape(50, 50)
    tifffile.imwrite(file, pixels, compression="zlib", rowsperstrip=50)
    start, data = file.seek(0, io.SEEK_END), zeros(15)
    file.write(data)
    file.seek(0)
    with tifffile.TiffFile(file, mode="r+") as opened:
        page = opened.pages.first
        page.tags["StripOffsets"].overwrite(start)
        page.tags["StripByteCounts"].overwrite(len(data))
    return file.getvalue()


def dicom_bomb() -> bytes:
    """Pixel data of half a gigabyte where 32 kB belong."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    del dataset.PixelData, dataset[0xFFFCFFFC]
    file = io.BytesIO()
    dataset.save_as(file)
    meta = pydicom.dcmread(io.BytesIO(file.getvalue())).file_meta
    start = 132 + 12 + meta.FileMetaInformationGroupLength
    plain = zlib.decompress(file.getvalue()[start:], -15)
    element = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, INFLATED)
    return file.getvalue()[:start] + zeros(-15, plain + element)


def nifti_bomb(sides: tuple[int, int, int]) -> bytes:
    """A volume of these sides, then half a gigabyte of zeros."""
    header = nib.Nifti1Header()
    header.set_data_shape(sides)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return gzip.compress(header.binaryblock + bytes(4)) + zeros(31)


BOMBS = {
    "declared.png": lambda: png_header(30_000, 30_000),
    "inflating.png": png_bomb,
    "inflating.tiff": tiff_bomb,
    "deflated.dcm": dicom_bomb,
    "declared.nii.gz": lambda: nifti_bomb((20_000, 20_000, 1)),
    "inflating.nii.gz": lambda: nifti_bomb((64, 64, 2)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(service: ServiceProcess, name: str) -> None:
    before, bomb = service.peak_bytes(), BOMBS[name]()
    files = [("files", (name, bomb)), ("files", ("good.png", png(1)))]
    response = service.client.post("/v1/engines/tiny/classify", files=files)
    assert response.status_code == 200
    *found, good = response.json()["predictions"]
    assert good["error"] is None
    if "declared" in name:
        assert [each["error"]["code"] for each in found] == ["image.too_large"]
    # A deflated data set is inflated whole: reading it has a limit of its own.
    allowed = ReadingLimits().most_bytes if name == "deflated.dcm" else 0
    assert service.peak_bytes() - before < MOST_MEMORY + allowed


def test_a_bomb_by_dicomweb(service: ServiceProcess) -> None:
    response = service.client.post(
        "/dicom-web/studies", content=dicom_bomb(), headers={"content-type": "application/dicom"}
    )
    assert response.status_code in (200, 409)
