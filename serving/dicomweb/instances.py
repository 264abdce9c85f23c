"""What an instance says it is: the UIDs that a Store transaction's answer refers to."""

import io
import re
import zlib
from typing import IO, Any, NamedTuple

from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medfocus.engine.io.dicom import silence_pydicom
from medfocus.serving.config import MEBIBYTE

HEAD_BYTES = MEBIBYTE  # of a data set, which holds these UIDs in front of the pixels
_TAGS: list[BaseTag | int] = [
    Tag(name) for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
]
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1, but for zeros in front, which some write


class Instance(NamedTuple):
    """The UIDs of a SOP Instance; its study's is empty if it has none."""

    sop_class: str
    sop_instance: str
    study: str


def instance_of(file: IO[bytes]) -> Instance | None:
    """The UIDs of a DICOM file; None if it has none that can be read.

    Only `HEAD_BYTES` are parsed: that takes little time and memory, whatever they hold.

    Args:
        file: open at its start, where it is left.
    """
    silence_pydicom()
    head = file.read(HEAD_BYTES)
    file.seek(0)
    try:
        dataset = _data_set(head)
        found = Instance(*(_uid(dataset[tag].value if tag in dataset else None) for tag in _TAGS))
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
    return tag > int(_TAGS[-1])


def _uid(value: object) -> str:
    """A UID, and nothing else that somebody may have put in its place."""
    text = "" if value is None else str(value).strip()
    return text if _UID.fullmatch(text) else ""
