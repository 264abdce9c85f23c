"""The pixel data of a DICOM file: found without being read, decoded one frame at a time."""

import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import pydicom
from numpy.typing import NDArray
from pydicom.encaps import (
    encapsulate,
    generate_frames,
    parse_basic_offsets,
    parse_fragments,
)
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGTransferSyntaxes,
)

from medfocus.engine.io import twelve_bit_jpeg
from medfocus.engine.io.dicom_display import REEXPORT
from medfocus.errors import ImageError

_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")  # value representations of a 32-bit length: PS3.5 7.1.2
_UNDEFINED = 0xFFFFFFFF
# pydicom's names of decoders. Where several read the same bits, the one that damaged files crash
# least; gdcm, which they crash most, only where nothing else reads the syntax.
_PREFERRED = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
_TWELVE_BIT = "medfocus"

Values = tuple[NDArray[Any], dict[str, str | int]]


def pixel_data(file: BinaryIO, dataset: pydicom.FileDataset, syntax: UID, name: str) -> "PixelData":
    """The pixel data of a file that stands at their element, as pydicom leaves it.

    Raises:
        ImageError: there are none, or no decoder reads them.
    """
    order = "<" if dataset.original_encoding[1] else ">"
    head, tag, length, vr = file.read(8), 0, 0, b"OW"
    if len(head) == 8:
        group, element, length = struct.unpack(f"{order}HHL", head)
        tag = group << 16 | element
        if head[4:6] in _LONG:  # explicit; in some files the elements before it are, and it is not
            vr = head[4:6]
            length = int.from_bytes(file.read(4), "little" if order == "<" else "big")
    if tag not in _KEYWORDS or not length:
        raise ImageError(
            name,
            "holds no pixel data, or is not a DICOM file, or is cut short before its PixelData",
            "give an image object: reports, structures and waveforms have no pixels",
            code="dicom.no_pixels",
        )
    counts = {
        option: _count(dataset.get(keyword), keyword, name)
        for option, keyword in (
            ("rows", "Rows"),
            ("columns", "Columns"),
            ("number_of_frames", "NumberOfFrames"),
        )
    }
    options = as_pixel_options(dataset, transfer_syntax_uid=syntax, pixel_keyword=_KEYWORDS[tag])
    # What is in the unused bits is for `rendered` to remove, which knows HighBit; pydicom does not.
    options |= counts | {"pixel_vr": vr.decode(), "correct_unused_bits": False}
    return PixelData(file, length, options, _decoder(syntax, name), name)


class PixelData:
    """Encoded frames that are read and decoded one at a time.

    Attributes:
        syntax: the transfer syntax.
        rows, columns: of a frame.
        frames: how many are there; one more if some that the file announces are missing.
        decoding_bytes: memory that decoding one frame takes at its peak.
    """

    def __init__(
        self, file: BinaryIO, length: int, options: dict[str, Any], decoder: Decoder, name: str
    ) -> None:
        self.syntax: UID = decoder.UID
        self.rows: int = options["rows"]
        self.columns: int = options["columns"]
        self.frames: int = options["number_of_frames"]
        samples = self.rows * self.columns * int(options.get("samples_per_pixel") or 1)
        self.decoding_bytes: int = samples * max(16, int(options.get("bits_allocated") or 0) // 2)
        self._file, self._decoder, self._name = file, decoder, name
        self._options = options | {"decoding_plugin": _plugin(decoder, options)}
        self._start = file.tell()
        self._encoded: Iterator[bytes] = iter(())
        self._source = _CutNoticing(file)
        self._next = 0  # the frame that `_encoded` yields next
        if decoder.is_native:
            held = file.seek(0, os.SEEK_END) - self._start
            self._held = held if length == _UNDEFINED else min(held, length)
            self.frames = min(self.frames, 8 * self._held // self._frame_bits + 1)

    @property
    def _frame_bits(self) -> int:
        samples = self._options["samples_per_pixel"]
        if self._options["photometric_interpretation"] == "YBR_FULL_422":
            samples = 2  # the chroma of two neighbours is stored once: PS3.3 C.7.6.3.1.2
        return self.rows * self.columns * int(samples) * int(self._options["bits_allocated"])

    def decode(self, index: int) -> Values:
        """One frame's stored values, (H, W) or (H, W, 3), and what pydicom says of them.

        Raises:
            ImageError: the file ends before this frame, or its codestream contradicts the header.
        """
        if self._decoder.is_native:
            return self._decode_native(index)
        return self._decode_encapsulated(index)

    def _decode_native(self, index: int) -> Values:
        if 8 * self._held < (index + 1) * self._frame_bits:
            raise self._missing(index)
        self._file.seek(self._start)
        return self._decoder.as_array(self._file, index=index, **self._options)

    def _decode_encapsulated(self, index: int) -> Values:
        if index < self._next or not self._next:
            self._file.seek(self._start)
            parse_basic_offsets(self._file)
            fragments, _ = parse_fragments(self._file)  # a frame has at least one
            self.frames = min(self.frames, fragments + 1)
            self._file.seek(self._start)
            self._next, self._source = 0, _CutNoticing(self._file)
            self._encoded = generate_frames(
                self._source,
                number_of_frames=min(self.frames, fragments),
                extended_offsets=self._options.get("extended_offsets"),
            )
        frame = None
        while self._next <= index and (frame := next(self._encoded, None)) is not None:
            self._next += 1
        if frame is None:
            self.frames = self._next + 1
            raise self._missing(self._next)
        if self._source.cut and frame.endswith(self._source.cut):
            self.frames = index + 1
            raise self._missing(index)
        _check_components(frame, self.syntax, self._options["samples_per_pixel"], self._name)
        options = self._options | {"number_of_frames": 1, "extended_offsets": None}
        return self._decoder.as_array(encapsulate([frame], has_bot=False), index=0, **options)

    def _missing(self, index: int) -> ImageError:
        return ImageError(
            self._name,
            f"its pixel data end before frame {index} is complete",
            "copy the file again, or export it again",
            code="image.truncated",
        )


class _CutNoticing:
    """A file that remembers what it gave where more was asked for: pydicom does not look.

    Attributes:
        cut: the end of a fragment that the file does not hold whole; empty if there is none.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        self.cut = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        data = self._read(size)
        if 4 < len(data) < size:  # a tag or a length may be missing at the end of a whole file
            self.cut = data
        return data


def _count(value: Any, keyword: str, name: str) -> int:
    if value in (None, "", 0) and keyword == "NumberOfFrames":
        return 1
    count = int(value) if str(value).isdecimal() else 0
    if count < 1:
        problem = f"its {keyword} is missing or not a positive number"
        raise ImageError(name, problem, REEXPORT, code="dicom.malformed")
    return count


def _decoder(syntax: UID, name: str) -> Decoder:
    hint = "convert it to Explicit VR Little Endian or another common transfer syntax"
    # The name of an unknown UID is the UID itself, which is a value of the data set.
    label = syntax.name if syntax.is_transfer_syntax and syntax.name != syntax else "unknown"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        problem = f"its transfer syntax ({label}) is not supported"
        raise ImageError(name, problem, hint, code="dicom.transfer_syntax") from None
    if not decoder.is_available:
        problem = f"no decoder for its transfer syntax ({label}) is installed"
        raise ImageError(name, problem, hint, code="dicom.transfer_syntax")
    return decoder


def _plugin(decoder: Decoder, options: dict[str, Any]) -> str:
    if decoder.is_native:
        return ""
    if JPEGExtended12Bit == decoder.UID and options.get("bits_stored") != 8:
        if _TWELVE_BIT not in decoder.available_plugins:
            decoder.add_plugin(_TWELVE_BIT, (twelve_bit_jpeg.__name__, "decode_frame"))
        return _TWELVE_BIT
    return min(decoder.available_plugins, key=_PREFERRED.index)


def _check_components(frame: bytes, syntax: UID, samples: int, name: str) -> None:
    """Raise ImageError if a codestream has other components than the data set says.

    Decoders trust the data set, and write beyond their buffers where it is wrong.
    """
    found = _components(frame, syntax)
    if found is not None and found != samples:
        raise ImageError(
            name,
            f"has SamplesPerPixel {samples}, and a codestream of {found} components",
            REEXPORT,
            code="dicom.malformed",
        )


def _components(frame: bytes, syntax: UID) -> int | None:
    """The number of components in the header of a JPEG or JPEG 2000 codestream, if it has one."""
    if syntax in JPEG2000TransferSyntaxes:
        start = frame.find(b"\xff\x4f\xff\x51")  # SOC and SIZ: ISO/IEC 15444-1 A.5.1
        field = frame[start + 40 : start + 42] if start >= 0 else b""
        return int.from_bytes(field, "big") if len(field) == 2 else None
    if syntax in JPEGTransferSyntaxes:
        position = 2
        while position + 10 <= len(frame) and frame[position] == 0xFF:  # ISO/IEC 10918-1 B.2.2
            marker, size = frame[position + 1], int.from_bytes(frame[position + 2 : position + 4])
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                return frame[position + 9]
            position += 2 + size
    return None
