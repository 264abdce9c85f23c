"""The kind of a file by its first bytes, of files that other programs wrote."""

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, features
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medfocus.engine.io.sniff import HEAD_BYTES, kind_of, kind_of_file

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize(
    ("format_", "kind"),
    [
        ("PNG", "PNG"),
        ("JPEG", "JPEG"),
        ("TIFF", "TIFF"),
        ("WEBP", "WebP"),
        ("BMP", "BMP"),
        ("JPEG2000", "JPEG 2000"),
        ("GIF", None),
        ("PPM", None),
    ],
)
def test_pictures_as_pillow_writes_them(format_: str, kind: str | None) -> None:
    if format_ == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("pillow without openjpeg")
    stream = io.BytesIO()
    Image.new("RGB", (9, 5), (1, 2, 3)).save(stream, format_)
    assert kind_of(stream.getvalue()[:HEAD_BYTES]) == kind
    assert kind_of(stream.getvalue()[:HEAD_BYTES][1:]) is None


def test_every_dicom_file_that_pydicom_ships() -> None:
    """Some are without preamble and mark; one begins with a byte too many."""
    kinds = {path.name: kind_of_file(path) for path in SHIPPED.glob("*.dcm")}
    assert len(kinds) > 50
    assert {name for name, kind in kinds.items() if kind != "DICOM"} == {"no_meta.dcm"}
    bare = [name for name in kinds if (SHIPPED / name).read_bytes()[128:132] != b"DICM"]
    assert len(bare) > 1
    indices = SHIPPED.joinpath("dicomdirtests").glob("DICOMDIR*")
    assert {kind_of_file(path) for path in indices} == {"DICOMDIR"}


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_data_set_without_file_meta(syntax: UID) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet, dataset.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID, dataset.Modality, dataset.Rows = CTImageStorage, "CT", 64
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = (
        syntax.is_implicit_VR,
        syntax.is_little_endian,
    )
    write_dataset(stream, dataset)
    head = stream.getvalue()[:HEAD_BYTES]
    assert kind_of(head) == "DICOM"
    assert kind_of(head[2:]) is None
    assert kind_of(head[:8]) is None


def test_archives_and_volumes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", "b")
    assert kind_of(stream.getvalue()) == "zip"
    # NIfTI-1: sizeof_hdr 348 and the magic at 344; NIfTI-2: sizeof_hdr 540, then the magic.
    first = struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(99)
    second = struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(528)
    for volume in (first, second, gzip.compress(first), gzip.compress(second)):
        assert kind_of(volume) == "NIfTI"
    assert kind_of(gzip.compress(b"text" * 200)) is None
    assert kind_of(b"\x1f\x8b damaged") is None


def test_text_and_noise_are_of_no_kind(tmp_path: Path) -> None:
    noise = np.random.default_rng(7)
    heads = [noise.bytes(HEAD_BYTES) for _ in range(2000)]
    heads += [b"", b"\0" * HEAD_BYTES, b"path,label\na.png,x\n", b"BM is how it begins, but text"]
    heads += [noise.bytes(4) * 99 for _ in range(2000)]
    assert not any(map(kind_of, heads))


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("absent")
    assert not any(kind_of_file(tmp_path / name) for name in ("pipe", "dangling", "absent", ""))
