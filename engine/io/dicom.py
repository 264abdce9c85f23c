"""DICOM files to 8-bit frames: parsed defensively, decoded, rendered as the standard says.

No value of the data set except pixels leaves this module: errors and warnings name attribute
keywords, sizes and transfer syntaxes, for any other value may identify a patient.
"""

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medfocus.engine.io.dicom_display import REEXPORT, corrected, rendered
from medfocus.engine.io.frames import Frame
from medfocus.errors import ImageError

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# The only attributes that are parsed; patients' names, dates and identifiers are not read.
_ATTRIBUTES = [
    *_PIXELS,
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
# What pydicom and its decoders raise on damaged files.
READ_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_PYDICOM_WARNINGS = ("ignore", None, Warning, re.compile(r"pydicom\."), 0)


def read_frames(path: Path, name: str, max_pixels: int) -> list[Frame]:
    """Read and render every frame of a DICOM file.

    Grey: modality LUT or rescale, then the first VOI LUT or window (PS3.3 C.11.1, C.11.2), then the
    inversion of MONOCHROME1. Functional groups of enhanced multi-frame objects take precedence over
    the data set's own attributes. With no usable window the frame is min-max normalised without its
    pixel padding, with a warning. Colour: to RGB, palettes by their LUT; no ICC profile.

    Args:
        path: the file; a missing preamble is tolerated.
        name: of the file, in errors.
        max_pixels: limit on rows × columns × frames, checked before decoding.

    Raises:
        ImageError: no pixels, a transfer syntax without decoder, damaged or truncated data. The
            message never holds a value of the data set.
    """
    silence_pydicom()
    hint = "check that it is a complete DICOM file"
    with _failing_as(name, "cannot be parsed as DICOM", hint, "dicom.malformed"):
        _check_inflated_size(path, name, max_pixels)
        dataset = pydicom.dcmread(path, force=True, specific_tags=_ATTRIBUTES)
    problem = "its image attributes (group 0028) are malformed"
    with _failing_as(name, problem, REEXPORT, "dicom.malformed"):
        keyword = next((k for k in _PIXELS if dataset.get(k)), None)
        if keyword is None:
            raise ImageError(
                name,
                "holds no pixel data, or is not a DICOM file, or is cut short before its PixelData",
                "give an image object: reports, structures and waveforms have no pixels",
                code="dicom.no_pixels",
            )
        rows, columns, frames = (
            _count(dataset, name, k) for k in ("Rows", "Columns", "NumberOfFrames")
        )
        if rows * columns * frames > max_pixels:
            raise ImageError(
                name,
                f"{frames} frames of {rows} x {columns} pass the limit of {max_pixels} pixels",
                "split it into files of fewer frames",
                code="image.too_large",
            )
        syntax = _transfer_syntax(dataset)
        notices = corrected(dataset)
    decoder = _decoder(syntax, name)
    decoded: list[Frame] = []
    with _failing_as(
        name,
        f"its {syntax.name} pixel data are damaged, truncated or of a kind that no installed "
        "decoder reads",
        f"{REEXPORT}, uncompressed if necessary",
        "image.damaged",
    ):
        for index in range(frames):
            # Not iter_array, which in pydicom 3.0 fails where JPEG 2000 needs its sign corrected.
            values, properties = decoder.as_array(dataset, index=index, correct_unused_bits=False)  # type: ignore[arg-type]
            problem = "its grey-scale or palette attributes are malformed"
            with _failing_as(name, problem, REEXPORT, "dicom.malformed"):
                frame = rendered(values, properties, dataset, index, name)
                decoded.append(frame._replace(warnings=notices + frame.warnings))
    return decoded


def silence_pydicom() -> None:
    """Suppress pydicom's warnings and logs, which quote values.

    Permanently, not only while reading: restoring them would race with other reading threads.
    """
    if tuple(warnings.filters[:1]) != (_PYDICOM_WARNINGS,):
        warnings.filterwarnings("ignore", module=_PYDICOM_WARNINGS[3].pattern)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


@contextmanager
def _failing_as(name: str, problem: str, hint: str, code: str) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS:
        # Not chained: the messages of pydicom's exceptions quote values.
        raise ImageError(name, problem, hint, code=code) from None


def _check_inflated_size(path: Path, name: str, max_pixels: int) -> None:
    """Refuse deflated data sets that would inflate to more than 16 bytes per permitted pixel."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    limit = 16 * max_pixels
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = 0
    with path.open("rb") as file:
        file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
        chunk = file.read(2**16)
        while chunk and inflated <= limit:
            inflated += len(inflater.decompress(chunk, 2**24))
            chunk = inflater.unconsumed_tail or file.read(2**16)
    if inflated > limit:
        problem, hint = f"inflates to more than {limit} bytes", "export it uncompressed"
        raise ImageError(name, problem, hint, code="image.too_large")


def _count(dataset: pydicom.Dataset, name: str, keyword: str) -> int:
    value = dataset.get(keyword)
    if value in (None, "", 0) and keyword == "NumberOfFrames":
        return 1
    count = int(value) if str(value).isdecimal() else 0
    if count < 1:
        problem = f"its {keyword} is missing or not a positive number"
        raise ImageError(name, problem, REEXPORT, code="dicom.malformed")
    return count


def _transfer_syntax(dataset: pydicom.FileDataset) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax:
        return UID(syntax)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


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
