"""DICOM's attributes that map values: lookup tables, numbers, a frame's functional groups."""

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue


def looked_up(
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


def functional_group(dataset: pydicom.Dataset, index: int, sequence: str) -> pydicom.Dataset:
    """The frame's own functional group, or the shared one, or the data set (PS3.3 C.7.6.16)."""
    for groups, item in (
        (dataset.get("PerFrameFunctionalGroupsSequence"), index),
        (dataset.get("SharedFunctionalGroupsSequence"), 0),
    ):
        if groups and item < len(groups) and groups[item].get(sequence):
            group: pydicom.Dataset = groups[item][sequence].value[0]
            return group
    return dataset


def numbers(dataset: pydicom.Dataset, keyword: str) -> list[float]:
    """An attribute's values; none if it is absent or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return [float(each) for each in (value if isinstance(value, MultiValue) else [value])]


def first_number(dataset: pydicom.Dataset, keyword: str, default: float) -> float:
    """An attribute's first value."""
    return next(iter(numbers(dataset, keyword)), default)
