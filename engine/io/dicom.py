"""DICOM files to 8-bit frames: parsed defensively, decoded one at a time, rendered by the standard.

No value of the data set except pixels leaves this module: errors and warnings name attribute
keywords, sizes and transfer syntaxes, for any other value may identify a patient.
"""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medfocus.engine.io.dicom_display import REEXPORT, corrected, rendered
from medfocus.engine.io.dicom_pixels import PixelData, pixel_data
from medfocus.engine.io.frames import Frame
from medfocus.errors import ImageError, MedfocusError

# The only attributes that are parsed; patients' names, dates and identifiers are not read.
_ATTRIBUTES = [
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    *(
        f"{kind}PixelPadding{end}"
        for kind in ("Float", "DoubleFloat")
        for end in ("Value", "RangeLimit")
    ),
    "PixelAspectRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PresentationLUTShape",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    *(
        f"{segmented}{colour}PaletteColorLookupTableData"
        for segmented in ("", "Segmented")
        for colour in ("Red", "Green", "Blue")
    ),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_PYDICOM_WARNINGS = ("ignore", None, Warning, re.compile(r"pydicom\."), 0)


class DicomFile:
    """A DICOM file whose frames are decoded one at a time.

    Grey: modality LUT or rescale, then the first VOI LUT or window (PS3.3 C.11.1, C.11.2), then the
    inversion of MONOCHROME1. Functional groups of enhanced multi-frame objects take precedence over
    the data set's own attributes. With no usable window the frame is min-max normalised without its
    pixel padding, with a warning. Colour: to RGB, palettes by their LUT; no ICC profile.
    docs/pixels.md has the details.

    Args:
        file: open at its start; a missing preamble is tolerated.
        name: of the file, in errors.
        max_pixels: limit on rows × columns, checked before decoding.

    Attributes:
        frames: how many the file holds; one more if some that it announces are missing.

    Raises:
        ImageError: no pixels, a transfer syntax without decoder, damaged or truncated data. The
            message never holds a value of the data set.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        silence_pydicom()
        self._name = name
        hint = "check that it is a complete DICOM file"
        with failing_as(name, "cannot be parsed as DICOM", hint, "dicom.malformed"):
            file = inflated(file, name, 16 * max_pixels)
            self._dataset: Any = pydicom.dcmread(
                file, force=True, stop_before_pixels=True, specific_tags=_ATTRIBUTES
            )
        problem = "its image attributes (group 0028) are malformed"
        with failing_as(name, problem, REEXPORT, "dicom.malformed"):
            self._notices = corrected(self._dataset)
            self._pixels: PixelData = pixel_data(file, self._dataset, _syntax(self._dataset), name)
            rows, columns = self._pixels.rows, self._pixels.columns
            if rows * columns > max_pixels:
                raise ImageError(
                    name,
                    f"frames of {rows} x {columns} pass the limit of {max_pixels} pixels",
                    "crop, tile or downsize it",
                    code="image.too_large",
                )

    @property
    def frames(self) -> int:
        """See the class."""
        return self._pixels.frames

    @property
    def decoding_bytes(self) -> int:
        """Memory that decoding and rendering one frame takes at its peak, in bytes."""
        return self._pixels.decoding_bytes

    def frame(self, index: int) -> Frame:
        """Decode and render one frame.

        Raises:
            ImageError: damaged, truncated or unsupported data.
        """
        problem = (
            f"its {self._pixels.syntax.name} pixel data are damaged, truncated or of a kind that"
            " no installed decoder reads"
        )
        hint = f"{REEXPORT}, uncompressed if necessary"
        with failing_as(self._name, problem, hint, "image.damaged"):
            values, properties = self._pixels.decode(index)
        problem = "its grey-scale or palette attributes are malformed"
        with failing_as(self._name, problem, REEXPORT, "dicom.malformed"):
            frame = rendered(values, properties, self._dataset, index, self._name)
        return frame._replace(warnings=self._notices + frame.warnings)


def silence_pydicom() -> None:
    """Suppress pydicom's warnings and logs, which quote values.

    Permanently, not only while reading: restoring them would race with other reading threads.
    """
    if tuple(warnings.filters[:1]) != (_PYDICOM_WARNINGS,):
        warnings.filterwarnings("ignore", module=_PYDICOM_WARNINGS[3].pattern)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


@contextmanager
def failing_as(name: str, problem: str, hint: str, code: str) -> Iterator[None]:
    """Raise ImageError for whatever the block raises."""
    try:
        yield
    except (MedfocusError, MemoryError):
        raise
    except Exception:
        # Of any class: nobody knows what a parser raises on damaged data. Not chained, since the
        # messages quote values.
        raise ImageError(name, problem, hint, code=code) from None


def inflated(file: BinaryIO, name: str, limit: int) -> BinaryIO:
    """The file itself, or its data set in memory if that is deflated (PS3.5 A.5)."""
    start = 132 if file.read(132)[128:] == b"DICM" else 0
    file.seek(start)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    content = file.tell()
    file.seek(0)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file
    file.seek(content)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    memory = DicomBytesIO()
    memory.write(bytes(128) + b"DICM")
    plain = pydicom.dataset.FileMetaDataset()
    plain.TransferSyntaxUID = ExplicitVRLittleEndian
    write_file_meta_info(memory, plain, enforce_standard=False)
    chunk = file.read(2**16)
    while chunk:
        memory.write(inflater.decompress(chunk, 2**24))
        if memory.tell() > limit:
            problem, hint = f"inflates to more than {limit} bytes", "export it uncompressed"
            raise ImageError(name, problem, hint, code="image.too_large")
        chunk = inflater.unconsumed_tail or file.read(2**16)
    memory.seek(0)
    return cast(BinaryIO, memory)


def _syntax(dataset: pydicom.FileDataset) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax:
        return UID(syntax)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
