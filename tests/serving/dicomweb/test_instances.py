"""UIDs are those that pydicom finds in the whole file; damaged and hostile files have none."""

import io
import tracemalloc
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medfocus.serving.dicomweb.instances import HEAD_BYTES, Instance, instance_of

FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")


def test_uids_are_those_of_the_whole_file() -> None:
    found = 0
    for path in FILES:
        dataset = pydicom.dcmread(path, force=True)
        uids = Instance(*(str(dataset.get(keyword, "")) for keyword in KEYWORDS))
        with path.open("rb") as file:
            named = instance_of(file)
            assert named == (uids if all(uids[:2]) else None), path.name
            assert file.tell() == 0
        found += named is not None
    assert found > 50


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_nothing_but_a_uid_is_taken_for_one() -> None:
    path = next(path for path in FILES if path.name == "CT_small.dcm")
    for keyword in KEYWORDS:
        for value in ("Smith^John", "1.2.3 Smith", "1" * 65, ""):
            dataset = pydicom.dcmread(path)
            setattr(dataset, keyword, value)
            content = io.BytesIO()
            dataset.save_as(content)
            content.seek(0)
            named = instance_of(content)
            if keyword == "StudyInstanceUID":
                assert named is not None
                assert named.study == ""
            else:
                assert named is None


UNDEFINED = b"\xff" * 4
ITEM = b"\xfe\xff\x00\xe0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"DICM",
        bytes(HEAD_BYTES),
        (b"\x08\x00\x06\x00SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * 20_000,  # nested
        b"\x08\x00\x06\x00" + UNDEFINED + (ITEM + bytes(4)) * 20_000,
        b"\x08\x00\x16\x00UI\xff\xff" + b"1" * 100,
    ],
)
def test_damaged_files_have_none(data: bytes) -> None:
    assert instance_of(io.BytesIO(data)) is None


def test_a_deflated_bomb_is_not_inflated() -> None:
    content = io.BytesIO()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2")
    dataset.save_as(content)
    start = len(content.getvalue()) - len(zlib.compress(b"", wbits=-zlib.MAX_WBITS))
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = b"\x08\x00\x01\x00UN\0\0" + (150 * 2**20).to_bytes(4, "little")
    bomb = b"".join(compressor.compress(data) for data in (element, *[bytes(2**20)] * 150))
    tracemalloc.start()
    try:
        assert instance_of(io.BytesIO(content.getvalue()[:start] + bomb)) is None
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
