"""A DICOM file's images and their places in its series, read without their pixels.

As in dicom.py, no value of the data set goes into an error.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np
import pydicom

from medfocus.engine.io.dicom import failing_as, inflated, silence_pydicom
from medfocus.engine.io.pixels.dicom_lut import functional_group, numbers
from medfocus.engine.io.volumes.parts import KINDS, MOST_PARTS, Part, digest, whole_digest
from medfocus.errors import ImageError

# Where enhanced multi-frame objects have them: the functional group, and the attribute in it
# (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3). Others, and these files as well, have them in the data
# set.
_IN_GROUPS = {
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "TemporalPositionIdentifier": (("FrameContentSequence", "TemporalPositionIndex"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "ImageType": tuple((f"{kind}FrameTypeSequence", "FrameType") for kind in ("MRImage", "CTImage"))
    + tuple((f"{kind}FrameTypeSequence", "FrameType") for kind in ("PET", "XAXRFImage")),
}
_ATTRIBUTES = [
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "NumberOfFrames"),
    *("Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient"),
    *KINDS,
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


def dicom_parts(file: BinaryIO, name: str, max_pixels: int) -> list[Part]:
    """One part for each frame that has a place of its own; else all frames in one.

    Args:
        file: open at its start.
        name: of the file, in errors.
        max_pixels: limit on an image; the limit on an inflated data set follows from it.

    Raises:
        ImageError: it cannot be parsed, or has more than `MOST_PARTS` frames.
    """
    silence_pydicom()
    hint = "check that it is a complete DICOM file"
    with failing_as(name, "cannot be parsed as DICOM", hint, "dicom.malformed"):
        dataset: Any = pydicom.dcmread(
            inflated(file, name, 16 * max_pixels),
            force=True,
            stop_before_pixels=True,
            specific_tags=_ATTRIBUTES,
        )
        frames = max(1, _whole(dataset, "NumberOfFrames") or 1)
        shared = Part(
            count=frames,
            series=_series(dataset),
            rows=max(0, _whole(dataset, "Rows") or 0),
            columns=max(0, _whole(dataset, "Columns") or 0),
            instance=_whole(dataset, "InstanceNumber"),
            patient=whole_digest(dataset.get("PatientID")),
        )
        placed = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if placed > MOST_PARTS:
            hint = "split it"
            raise ImageError(name, f"has {placed} frames", hint, code="image.too_large")
        if frames > 1 and placed != frames:
            return [shared]
        return list(_frames(dataset, shared, frames))


def _frames(dataset: pydicom.Dataset, shared: Part, frames: int) -> Iterator[Part]:
    for index in range(frames):
        orientation, position = _place(dataset, index)
        kinds = tuple(digest(_kind(dataset, index, keyword)) for keyword in KINDS)
        yield replace(
            shared,
            first=index,
            count=1,
            orientation=orientation,
            position=position,
            kinds=kinds,
        )


def _series(dataset: pydicom.Dataset) -> str:
    series = str(dataset.get("SeriesInstanceUID") or "").strip()
    # With the study's: some anonymisers give the series of all studies the same names.
    return digest(f"{dataset.get('StudyInstanceUID')}/{series}") if series else ""


def _place(dataset: pydicom.Dataset, index: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Orientation and position of a frame; both empty unless both are usable."""
    oriented = functional_group(dataset, index, "PlaneOrientationSequence")
    placed = functional_group(dataset, index, "PlanePositionSequence")
    orientation = _numbers(oriented, "ImageOrientationPatient", 6)
    position = _numbers(placed, "ImagePositionPatient", 3)
    # A tenth: many files are rounded, and only nonsense must not get through.
    if not (orientation and position) or not np.allclose(_lengths(orientation), 1, atol=0.1):
        return (), ()
    return orientation, position


def _lengths(orientation: tuple[float, ...]) -> list[float]:
    """Of the two directions and of their normal; 1 if they are unit vectors at right angles."""
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    return [float(np.linalg.norm(each)) for each in (along, down, np.cross(along, down))]


def _kind(dataset: pydicom.Dataset, index: int, keyword: str) -> object:
    value = dataset.get(keyword)
    for sequence, inner in _IN_GROUPS.get(keyword, ()):
        group = functional_group(dataset, index, sequence)
        if group is not dataset and group.get(inner) is not None:
            value = group.get(inner)
    return float(value) if isinstance(value, int | float | Decimal) else value  # not as written


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(numbers(dataset, keyword))
    except (TypeError, ValueError):  # no numbers
        return ()
    return found if len(found) == count and all(map(math.isfinite, found)) else ()


def _whole(dataset: pydicom.Dataset, keyword: str) -> int | None:
    try:
        found = int(str(dataset.get(keyword)))
    except ValueError:
        return None
    return found if abs(found) < 2**31 else None
