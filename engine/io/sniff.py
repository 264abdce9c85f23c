"""What kind of file it is, by its first bytes; its name says nothing.

Signatures: PNG 3rd edition 5.2; ISO 10918-1 B.1.1 (JPEG: SOI and a marker); TIFF 6.0 and BigTIFF;
RFC 9649 (WebP); BMP's two headers; ISO 15444-1 I.5.1 and A.4.1 (a JPEG 2000 file, a bare code
stream); PS3.10 7.1 (DICOM); APPNOTE.TXT 4.3.7 (zip); NIfTI-1 and NIfTI-2 headers, also in gzip.
"""

import stat
import struct
import zlib
from pathlib import Path
from typing import Literal, get_args

Kind = Literal[
    "PNG", "JPEG", "TIFF", "WebP", "BMP", "JPEG 2000", "DICOM", "NIfTI", "DICOMDIR", "zip"
]
IMAGE_KINDS: frozenset[Kind] = frozenset(get_args(Kind)) - {"DICOMDIR", "zip"}
HEAD_BYTES = 4096  # enough for every signature, and for several DICOM elements

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),  # a bare code stream
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),  # an empty one
)
# The sizes of a bitmap's second header, little endian.
_BMP_HEADERS = [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]
# (0002,0002) Media Storage SOP Class UID, and the class of a DICOMDIR (PS3.4 table I.4-1).
_SOP_CLASS = b"\x02\x00\x02\x00UI"
_DICOMDIR = b"1.2.840.10008.1.3.10"
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR"
    b" US UT UV".split()
)
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # 32-bit length
_LEADING = (0x0002, 0x0008)  # groups that a data set begins with
_FIRST_LENGTH = 1024  # bytes; the values at the start of a data set are short


def kind_of_file(path: Path) -> Kind | None:
    """The kind of a file; None if it is of no known kind, no regular file, or cannot be opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            return None
        with path.open("rb") as file:
            return kind_of(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return None


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that begins with `head`, up to `HEAD_BYTES` of it; None if unknown.

    A DICOM file is also recognised without its preamble and mark, as a data set that begins with
    elements of the groups 0002 or 0008 in ascending order.
    """
    if head[128:132] == b"DICM":
        return "DICOMDIR" if _is_directory(head) else "DICOM"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if _is_nifti(head):
        return "NIfTI"
    return "DICOM" if _is_bare_dicom(head) else None


def _is_directory(head: bytes) -> bool:
    place = head.find(_SOP_CLASS, 132)
    length = int.from_bytes(head[place + 6 : place + 8], "little")
    return place > 0 and head[place + 8 : place + 8 + length].rstrip(b"\0 ") == _DICOMDIR


def _is_nifti(head: bytes) -> bool:
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
        except zlib.error:
            return False
    first = head[344:348] in (b"n+1\0", b"ni1\0")
    return first or head[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")


def _is_bare_dicom(head: bytes) -> bool:
    return any(_begins_as_data_set(head, order) for order in "<>")


def _begins_as_data_set(head: bytes, order: str) -> bool:
    """Whether the first elements are well formed (PS3.5 7.1), as far as `head` shows them.

    Args:
        head: the first bytes of a file.
        order: "<" for little endian, ">" for big endian, which always has explicit VRs.
    """
    place, former, found = 0, (0, -1), 0
    while place + 8 <= len(head) and found < 4:
        tag = struct.unpack_from(f"{order}HH", head, place)
        vr = head[place + 4 : place + 6]
        if vr in _LONG_VRS:
            if place + 12 > len(head):
                break
            start, (length,) = place + 12, struct.unpack_from(f"{order}I", head, place + 8)
        elif vr in _VRS:
            start, (length,) = place + 8, struct.unpack_from(f"{order}H", head, place + 6)
        elif order == "<":
            start, (length,) = place + 8, struct.unpack_from("<I", head, place + 4)
        else:
            return False
        if tag <= former or (found == 0 and tag[0] not in _LEADING):
            return False
        sequence = length == 2**32 - 1 and found > 0  # its end is not looked for
        if not sequence and (length % 2 or length > _FIRST_LENGTH):
            return found > 1
        former, found = tag, found + 1
        if sequence:
            break
        place = start + length
    return found > 1
