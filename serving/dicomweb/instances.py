"""What an instance says it is: the UIDs that a Store transaction's answer refers to."""

import io
import re
import zlib
from typing import Any, BinaryIO, NamedTuple

from pydicom.filereader import read_dataset, read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medfocus.engine.io.dicom import silence_pydicom
from medfocus.serving.config import MEBIBYTE

HEAD_BYTES = MEBIBYTE  # of a data set, which holds these UIDs in front of the pixels
_TAGS: Any = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
_LAST = 0x0020000D  # Study Instance UID, the last of them
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1, but for zeros in front, which some write


class Instance(NamedTuple):
    """The UIDs of a SOP Instance; its study's is empty if it has none."""

    sop_class: str
    sop_instance: str
    study: str


def instance_of(file: BinaryIO) -> Instance | None:
    """The UIDs of a DICOM file; None if it has none that can be read.

    Little of the file is parsed, so that none takes long, whatever it holds.

    Args:
        file: open at its start, where it is left.
    """
    silence_pydicom()
    head = file.read(HEAD_BYTES)
    file.seek(0)
    try:
        dataset = _data_set(head)
        found = Instance(*(_uid(dataset.get(keyword)) for keyword in _TAGS))
    except Exception:  # of any class: nobody knows what a parser raises on damaged data
        return None
    return found if found.sop_class and found.sop_instance else None


def _data_set(head: bytes) -> Any:
    stream = io.BytesIO(head)
    stream.seek(132 if head[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return read_partial(io.BytesIO(head), _beyond, force=True, specific_tags=_TAGS)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = io.BytesIO(inflater.decompress(stream.read(), HEAD_BYTES))
    return read_dataset(inflated, False, True, stop_when=_beyond, specific_tags=_TAGS)


def _beyond(tag: int, vr: str | None, length: int) -> bool:
    return tag > _LAST


def _uid(value: object) -> str:
    """A UID, and nothing else that somebody may have put in its place."""
    text = "" if value is None else str(value).strip()
    return text if _UID.fullmatch(text) else ""
