"""Rendering stored DICOM values as a viewer would show them: grey, palettes, colour.

As in dicom.py, no value of the data set goes into an error or a warning.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.pixels.dicom_grey import grey
from medfocus.engine.io.pixels.dicom_lut import functional_group, looked_up, numbers
from medfocus.engine.io.pixels.levels import Levels, Values, grey_rgb, to_uint8, value_by_value
from medfocus.errors import ImageError

REEXPORT = "export the file again from its source"


INTERPRETATION = Notice(
    "pixels.lower_case", "the file's PhotometricInterpretation is not in capitals, and read as if"
)
SAMPLES = Notice(
    "pixels.samples_assumed",
    "the file has no SamplesPerPixel: its PhotometricInterpretation decides",
)


def corrected(dataset: pydicom.FileDataset) -> tuple[Notice, ...]:
    """Correct, in the data set, what has only one reading; before its pixels are decoded."""
    notices: tuple[Notice, ...] = ()
    interpretation = str(dataset.get("PhotometricInterpretation") or "")
    if interpretation != interpretation.upper():
        interpretation = interpretation.upper()
        dataset.PhotometricInterpretation = interpretation
        notices += (INTERPRETATION,)
    if dataset.get("SamplesPerPixel") is None and interpretation:
        grey_or_palette = interpretation.startswith(("MONOCHROME", "PALETTE"))
        dataset.SamplesPerPixel = 1 if grey_or_palette else 3
        notices += (SAMPLES,)
    return notices


def rendered(
    values: NDArray[Any],
    properties: dict[str, str | int],
    dataset: pydicom.FileDataset,
    index: int,
    name: str,
) -> Frame:
    """Render a frame's values, (H, W) or (H, W, 3), as a viewer would show them.

    Needs, for each pixel, 4 bytes and at most twice those that its values take, and 20 MiB.

    Args:
        values: of one frame, as the decoder gives them, with the unused bits of each as stored.
        properties: the decoder's, of that frame.
        dataset: with the attributes that define the rendering.
        index: of the frame, from 0.
        name: of the file, in errors.

    Raises:
        ImageError: an unsupported photometric interpretation, or values that are not finite.
    """
    interpretation = properties["photometric_interpretation"]
    bits = int(properties.get("bits_stored", 0))  # floats have none
    if values.dtype.kind in "iu":
        values = _stored(values, bits, dataset)
    aspect = _pixel_aspect(dataset, index)
    if values.ndim == 3 and values.shape[2] == 3 and interpretation == "RGB":
        return Frame(_eight_bits(values, bits), (), aspect)
    if values.ndim == 2 and interpretation == "PALETTE COLOR":
        return Frame(value_by_value(values, _palette(dataset)), (), aspect)
    if values.ndim == 2 and interpretation in ("MONOCHROME1", "MONOCHROME2"):
        levels, notices = grey(values, dataset, index, interpretation == "MONOCHROME1", name)
        return Frame(grey_rgb(levels), notices, aspect)
    raise ImageError(
        name,
        f"its PhotometricInterpretation does not fit {values.shape[2:] or 1} samples per pixel, "
        "or is not supported",
        "convert it to RGB, MONOCHROME1 or MONOCHROME2",
        code="image.unsupported",
    )


def _stored(values: Values, bits: int, dataset: pydicom.FileDataset) -> Values:
    """The `bits` of each value that end at its HighBit, signed if the type is (PS3.5 8.1.1).

    The other bits mean nothing: they may hold an overlay. JPEG, JPEG-LS and JPEG 2000 have no
    HighBit of their own, and code the bits from the lowest; the latter two also say how many.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in JPEG2000TransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return values
    width, high = 8 * values.itemsize, dataset.get("HighBit")
    packed = syntax is not None and syntax.is_encapsulated and syntax != RLELossless
    if packed or not isinstance(high, int) or not bits - 1 <= high < width:
        high = bits - 1
    if bits >= width:
        return values
    shifted = values << (width - 1 - high)
    shifted >>= width - bits
    return shifted


def _eight_bits(values: Values, bits: int) -> Levels:
    if bits == 8:
        return np.ascontiguousarray(values, np.uint8)
    white = 2**bits - 1
    return value_by_value(values, lambda part: to_uint8(part / white))


def _palette(dataset: pydicom.FileDataset) -> Callable[[Values], Levels]:
    """From palette indices (n,) to RGB (n, 3) (PS3.3 C.7.6.3.1.5)."""

    def look(stored: Values) -> Levels:
        if "RedPaletteColorLookupTableData" in dataset:
            little_endian = bool(dataset.original_encoding[1])
            stems = (f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
            shown = (looked_up(stored, dataset, stem, little_endian) for stem in stems)
            return np.stack([to_uint8(levels / white) for levels, white in shown], axis=-1)
        colours = apply_color_lut(stored, dataset)  # segmented tables
        return to_uint8(colours / np.iinfo(colours.dtype).max)

    return look


def _pixel_aspect(dataset: pydicom.FileDataset, index: int) -> float:
    """PS3.3 C.7.6.3.1.7, or else the ratio of the spacings (10.7.1.3); 1 where there is none."""
    measures = functional_group(dataset, index, "PixelMeasuresSequence")
    for source, keyword in (
        (dataset, "PixelAspectRatio"),
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "NominalScannedPixelSpacing"),
    ):
        try:
            sizes = numbers(source, keyword)
        except (TypeError, ValueError):  # no numbers
            continue
        if len(sizes) == 2 and all(math.isfinite(size) and size > 0 for size in sizes):
            return sizes[0] / sizes[1]
    return 1.0
