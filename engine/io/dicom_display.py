"""Rendering stored DICOM values: modality LUT, VOI LUT or window, MONOCHROME1, colour.

As in dicom.py, no value of the data set goes into an error or a warning.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut

from medfocus.errors import ImageError

REEXPORT = "export the file again from its source"


class Frame(NamedTuple):
    """One rendered frame: pixels, uint8 RGB (H, W, 3), and how they were altered."""

    pixels: NDArray[np.uint8]
    warnings: tuple[str, ...]


def rendered(
    values: NDArray[Any],
    properties: dict[str, str | int],
    dataset: pydicom.FileDataset,
    index: int,
    name: str,
) -> Frame:
    """Render stored values, (H, W) or (H, W, 3), as a viewer would show them.

    Args:
        values: of one frame, as the decoder gives them.
        properties: the decoder's, of that frame.
        dataset: with the attributes that define the rendering.
        index: of the frame, from 0.
        name: of the file, in errors.

    Raises:
        ImageError: an unsupported photometric interpretation, or values that are not finite.
    """
    interpretation = properties["photometric_interpretation"]
    if values.ndim == 3 and values.shape[2] == 3 and interpretation == "RGB":
        white = 2 ** int(properties["bits_stored"]) - 1
        return Frame(_to_uint8(values / white), ())
    if values.ndim == 2 and interpretation == "PALETTE COLOR":
        return Frame(_to_uint8(_palette(values, dataset)), ())
    if values.ndim == 2 and interpretation in ("MONOCHROME1", "MONOCHROME2"):
        levels, notes = _grey(values, dataset, index, name)
        if interpretation == "MONOCHROME1":
            levels = 1 - levels
        return Frame(_to_uint8(levels)[..., None].repeat(3, axis=2), notes)
    raise ImageError(
        name,
        f"its PhotometricInterpretation does not fit {values.shape[2:] or 1} samples per pixel, "
        "or is not supported",
        "convert it to RGB, MONOCHROME1 or MONOCHROME2",
        code="image.unsupported",
    )


def _grey(
    stored: NDArray[Any], dataset: pydicom.FileDataset, index: int, name: str
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Grey levels in [0, 1] of stored values (H, W), before the inversion of MONOCHROME1."""
    little_endian = bool(dataset.original_encoding[1])
    modality = _functional_group(dataset, index, "PixelValueTransformationSequence")
    if modality.get("ModalityLUTSequence"):
        values, _ = _looked_up(stored, modality.ModalityLUTSequence[0], "LUT", little_endian)
    else:
        slope = _first_number(modality, "RescaleSlope", 1.0)
        values = stored.astype(np.float64) * slope
        values += _first_number(modality, "RescaleIntercept", 0.0)
    if not np.isfinite(values).all():
        problem = "holds NaN or infinite pixel values"
        raise ImageError(name, problem, REEXPORT, code="image.not_finite")

    voi = _functional_group(dataset, index, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        levels, white = _looked_up(values, voi.VOILUTSequence[0], "LUT", little_endian)
        return levels / white, ()
    windowed = _windowed(values, voi)
    if windowed is not None:
        return windowed, ()
    note = "no usable window in the file: grey levels are min-max normalised"
    return _unit_range(values, ~_padding(stored, dataset)), (note,)


def _functional_group(dataset: pydicom.Dataset, index: int, sequence: str) -> pydicom.Dataset:
    """The frame's own functional group, or the shared one, or the data set (PS3.3 C.7.6.16)."""
    for groups, item in (
        (dataset.get("PerFrameFunctionalGroupsSequence"), index),
        (dataset.get("SharedFunctionalGroupsSequence"), 0),
    ):
        if groups and item < len(groups) and groups[item].get(sequence):
            group: pydicom.Dataset = groups[item][sequence].value[0]
            return group
    return dataset


def _windowed(values: NDArray[np.float64], voi: pydicom.Dataset) -> NDArray[np.float64] | None:
    """Apply the first window (PS3.3 C.11.2.1.2 and C.11.2.1.3); None if none is usable."""
    centre = _first_number(voi, "WindowCenter", math.nan)
    width = _first_number(voi, "WindowWidth", math.nan)
    if not (math.isfinite(centre) and math.isfinite(width)):
        return None
    function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
    if function == "LINEAR" and width > 1:
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR" and width == 1:
        return (values > centre - 0.5).astype(np.float64)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function == "SIGMOID" and width > 0:
        # tanh is the same function as 1 / (1 + exp(-4x)), and cannot overflow.
        return np.asarray(0.5 + 0.5 * np.tanh(2 * (values - centre) / width))
    return None


def _looked_up(
    values: NDArray[Any], item: pydicom.Dataset, stem: str, little_endian: bool
) -> tuple[NDArray[np.float64], int]:
    """Values through the lookup table "{stem}Data" (PS3.3 C.11.1.1), and its maximum output.

    Not with pydicom's function: in 3.0 its index has the dtype of the entries, or of the pixels,
    and wraps around.
    """
    entries, first, bits = (int(value) for value in item[f"{stem}Descriptor"].value)
    entries = entries or 2**16  # 0 means 65536, which does not fit in 16 bits
    data = item[f"{stem}Data"].value
    if isinstance(data, bytes):
        packed = len(data) < 2 * entries  # 8-bit entries, two per word
        data = np.frombuffer(data, "u1" if packed else "<u2" if little_endian else ">u2")
    table = np.asarray(data, dtype=np.float64)[:entries]
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return table[index], 2**bits - 1


def _palette(stored: NDArray[Any], dataset: pydicom.FileDataset) -> NDArray[np.float64]:
    """RGB in [0, 1] of palette indices (PS3.3 C.7.6.3.1.5)."""
    if "RedPaletteColorLookupTableData" in dataset:
        little_endian = bool(dataset.original_encoding[1])
        stems = (f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
        looked_up = (_looked_up(stored, dataset, stem, little_endian) for stem in stems)
        return np.stack([levels / white for levels, white in looked_up], axis=-1)
    colours = apply_color_lut(stored, dataset)  # segmented tables
    return np.asarray(colours / np.iinfo(colours.dtype).max)


def _padding(stored: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.bool_]:
    """Where stored integers are pixel padding (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    # Writers often give a negative padding value as unsigned; the cast wraps it back.
    ends = np.array([value, value if limit is None else limit], np.int64).astype(stored.dtype)
    padding: NDArray[np.bool_] = (stored >= ends.min()) & (stored <= ends.max())
    return padding


def _first_number(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return default if value in (None, "") else float(value)


def min_max_normalised(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the range of finite `values` to 0 … 255; constant ones to 0."""
    return _to_uint8(_unit_range(values))


def _unit_range(
    values: NDArray[Any], inside: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    chosen = values if inside is None or not inside.any() else values[inside]
    low, high = float(chosen.min()), float(chosen.max())
    if low == high:
        return np.zeros(values.shape)
    levels: NDArray[np.float64] = (values.astype(np.float64) - low) / (high - low)
    return levels.clip(0, 1)


def _to_uint8(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
