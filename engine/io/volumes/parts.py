"""What a file says of its images' place in a series."""

import hashlib
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

# What tells images at one place apart, in the order in which a series is split by it.
KINDS = (
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "AcquisitionNumber",
    "ImageType",
)
MOST_PARTS = 2**16  # of a file
_MOST_NUMBER = 2**31
_DIGEST = re.compile("([0-9a-f]{16})?")
_WHOLE_DIGEST = re.compile("([0-9a-f]{64})?")


@dataclass(frozen=True)
class Part:
    """Images of a file that stay together and in their order: mostly one.

    No value that may identify a patient is kept: of texts and UIDs only a digest, which is compared
    and never shown.

    Attributes:
        first: index of the first image in the file.
        count: how many; None for all that the file holds.
        series: digest of the series; "" if the file names none, and is one by itself.
        rows, columns: of an image; 0 if unknown.
        orientation: direction cosines of a row and of a column (PS3.3 C.7.6.2.1.1), 6 numbers; ()
            if unknown.
        position: of the first pixel, 3 numbers, mm; () if unknown.
        instance: InstanceNumber; None if there is none.
        kinds: a digest of each of `KINDS`, "" where the file has none.
        patient: SHA-256 of the PatientID, in hexadecimal; "" if there is none.
    """

    first: int = 0
    count: int | None = None
    series: str = ""
    rows: int = 0
    columns: int = 0
    orientation: tuple[float, ...] = ()
    position: tuple[float, ...] = ()
    instance: int | None = None
    kinds: tuple[str, ...] = ("",) * len(KINDS)
    patient: str = ""


WHOLE = Part()


def digest(value: object) -> str:
    """What a value of a file is compared by; "" for one that is empty."""
    return whole_digest(value)[:16]


def whole_digest(value: object) -> str:
    """`digest`, as long as SHA-256 makes it."""
    text = str(value if value is not None else "").strip()
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def to_json(part: Part) -> dict[str, Any]:
    """For the channel of a reading process."""
    return asdict(part)


def from_json(given: Any) -> Part:
    """What `to_json` made.

    Raises:
        ValueError: anything else: the process may have been made to say it.
    """
    try:
        part = Part(**{key: _frozen(value) for key, value in given.items()})
        sound = _is_sound(part)
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise ValueError
    return part


def _is_sound(part: Part) -> bool:
    numbers = [*part.orientation, *part.position]
    return (
        _is_count(part.first)
        and (part.count is None or (_is_count(part.count) and part.count > 0))
        and _is_count(part.rows)
        and _is_count(part.columns)
        and (part.instance is None or _is_count(abs(part.instance)))
        and (len(part.orientation), len(part.position)) in ((6, 3), (0, 0))
        and all(type(each) is float and math.isfinite(each) for each in numbers)
        and len(part.kinds) == len(KINDS)
        and all(
            type(each) is str and _DIGEST.fullmatch(each) for each in (part.series, *part.kinds)
        )
        and type(part.patient) is str
        and _WHOLE_DIGEST.fullmatch(part.patient) is not None
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBER
