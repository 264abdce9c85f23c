"""The grey path of DICOM: stored values to levels, as PS3.3 C.7.5.1.1.2, C.7.6.3.1 and C.11 say.

As in dicom.py, no value of the data set goes into an error or a warning.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pydicom

from medfocus.engine.io.notices import CONSTANT, Notice
from medfocus.engine.io.pixels.dicom_lut import first_number, functional_group, looked_up
from medfocus.engine.io.pixels.levels import (
    Floats,
    Levels,
    Values,
    distinct,
    to_uint8,
    value_by_value,
)
from medfocus.errors import ImageError

NO_WINDOW = Notice(
    "pixels.no_window", "no usable window in the file: grey levels are min-max normalised"
)
CONSTANT_WINDOWED = Notice(
    "pixels.constant_after_windowing",
    "the file's window makes all pixels equal: grey levels are min-max normalised",
)
NO_RESCALE = Notice(
    "pixels.rescale_ignored", "the file's RescaleSlope is 0 or no number: its rescale is ignored"
)
ALL_PADDING = Notice("pixels.padding_ignored", "all pixels are padding, and shown as if none were")
LUT_SHAPE = Notice(
    "pixels.presentation_lut_shape",
    "the file's PresentationLUTShape, not its PhotometricInterpretation, decides what is black; "
    "some viewers show the negative",
)

_Transform = Callable[[Values], Floats]  # value by value
_Padding = tuple[Any, Any]  # the lowest and the highest stored value that is padding


class _Ranges(NamedTuple):
    """The ranges of a frame without its padding: of its values, and of the levels that show them.

    `darkest` and `brightest` are equal if there is no VOI transformation.
    """

    low: float
    high: float
    darkest: int
    brightest: int


def grey(
    stored: Values, dataset: pydicom.FileDataset, index: int, monochrome1: bool, name: str
) -> tuple[Levels, tuple[Notice, ...]]:
    """Levels of a frame's stored values, uint8 (H, W), and what the reader must know of them.

    The modality transformation, the VOI transformation, then the inversion. Padding takes part in
    no range, and is shown as background, 0.

    Args:
        stored: (H, W), integers or floats.
        dataset: with the attributes that define the rendering.
        index: of the frame, from 0.
        monochrome1: whether its PhotometricInterpretation says that the lowest value is white.
        name: of the file, in errors.

    Raises:
        ImageError: values that are not finite.
    """
    modality, notices = _modality(dataset, index)
    voi = _voi(dataset, index)
    padding = _padding(dataset, stored)
    ranges = _ranges(stored, padding, modality, voi, name)
    if ranges is None:
        notices, padding = (*notices, ALL_PADDING), None
        ranges = _ranges(stored, None, modality, voi, name)
    assert ranges is not None
    if ranges.low == ranges.high:
        return np.zeros(stored.shape, np.uint8), (*notices, CONSTANT)
    if voi is None or ranges.darkest == ranges.brightest:
        notices = (*notices, CONSTANT_WINDOWED if voi else NO_WINDOW)
        low, span = ranges.low, ranges.high - ranges.low
        voi = lambda values: (values - low) / span  # noqa: E731
    inverted = _inverted(dataset, monochrome1)
    if inverted != monochrome1:
        notices = (*notices, LUT_SHAPE)
    shown = voi

    def look(values: Values) -> Levels:
        unit = shown(modality(values))
        levels = to_uint8(1 - unit if inverted else unit)
        if padding is not None:
            levels[(values >= padding[0]) & (values <= padding[1])] = 0
        return levels

    return value_by_value(stored, look), notices


def _ranges(
    stored: Values,
    padding: _Padding | None,
    modality: _Transform,
    voi: _Transform | None,
    name: str,
) -> _Ranges | None:
    """None if all pixels are padding."""
    low, high, darkest, brightest = math.inf, -math.inf, 255, 0
    for values in distinct(stored):
        if padding is not None:
            values = values[(values < padding[0]) | (values > padding[1])]
        if not values.size:
            continue
        scaled = modality(values)
        if not np.isfinite(scaled).all():
            problem, hint = "holds NaN or infinite pixel values", "export it again from its source"
            raise ImageError(name, problem, hint, code="image.not_finite")
        low, high = min(low, float(scaled.min())), max(high, float(scaled.max()))
        if voi is not None:
            levels = to_uint8(voi(scaled))
            darkest = min(darkest, int(levels.min()))
            brightest = max(brightest, int(levels.max()))
    return None if high < low else _Ranges(low, high, darkest, brightest)


def _modality(dataset: pydicom.FileDataset, index: int) -> tuple[_Transform, tuple[Notice, ...]]:
    """The modality LUT, or the rescale (PS3.3 C.11.1)."""
    group = functional_group(dataset, index, "PixelValueTransformationSequence")
    if group.get("ModalityLUTSequence"):
        item, little_endian = group.ModalityLUTSequence[0], bool(dataset.original_encoding[1])
        return lambda values: looked_up(values, item, "LUT", little_endian)[0], ()
    slope = first_number(group, "RescaleSlope", 1.0)
    intercept = first_number(group, "RescaleIntercept", 0.0)
    if slope == 0 or not math.isfinite(slope + intercept):
        return lambda values: values.astype(np.float64), (NO_RESCALE,)
    return lambda values: values.astype(np.float64) * slope + intercept, ()


def _voi(dataset: pydicom.FileDataset, index: int) -> _Transform | None:
    """The first VOI LUT, or else the first window (PS3.3 C.11.2); None if neither is usable."""
    group = functional_group(dataset, index, "FrameVOILUTSequence")
    if group.get("VOILUTSequence"):
        item, little_endian = group.VOILUTSequence[0], bool(dataset.original_encoding[1])

        def through_lut(values: Values) -> Floats:
            levels, white = looked_up(values, item, "LUT", little_endian)
            return levels / white

        return through_lut
    centre = first_number(group, "WindowCenter", math.nan)
    width = first_number(group, "WindowWidth", math.nan)
    if not (math.isfinite(centre) and math.isfinite(width)):
        return None
    return _window(centre, width, str(group.get("VOILUTFunction") or "LINEAR").upper())


def _window(centre: float, width: float, function: str) -> _Transform | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to 0 … 1 once clipped; None for an unusable width."""
    if function == "LINEAR" and width > 1:
        return lambda values: (values - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR" and width == 1:
        return lambda values: (values > centre - 0.5).astype(np.float64)
    if function == "LINEAR_EXACT" and width > 0:
        return lambda values: (values - centre) / width + 0.5
    if function == "SIGMOID" and width > 0:
        # tanh is the same function as 1 / (1 + exp(-4x)), and cannot overflow.
        return lambda values: 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)
    return None


def _padding(dataset: pydicom.Dataset, stored: Values) -> _Padding | None:
    """PS3.3 C.7.5.1.1.2, and C.7.6.24.1 and C.7.6.25.1 for floats; None if there is none."""
    kind = "" if stored.dtype.kind in "iu" else "Float" if stored.itemsize == 4 else "DoubleFloat"
    value = dataset.get(f"{kind}PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get(f"{kind}PixelPaddingRangeLimit")
    # Writers often give a negative padding value as unsigned; the cast wraps it back.
    ends = np.array([value, value if limit is None else limit], "f8" if kind else "i8")
    low, high = sorted(ends.astype(stored.dtype))
    return low, high


def _inverted(dataset: pydicom.Dataset, monochrome1: bool) -> bool:
    """Whether the lowest value is white: PresentationLUTShape decides, as in dcmtk (PS3.3 C.11.6).

    Where it is used as the standard says, it never contradicts the PhotometricInterpretation.
    """
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    return {"IDENTITY": False, "INVERSE": True}.get(shape, monochrome1)
