"""Files to studies: the images of a series that can be one volume, in their order.

Images of another size or orientation (localizers), and several images at one position (echoes,
phases, b-values, acquisitions), are studies of their own, and each says so.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from medfocus.engine.io.notices import Notice
from medfocus.engine.io.volumes.parts import KINDS, WHOLE, Part
from medfocus.engine.series.order import Unit, by_number, ordered, places

_PARALLEL = 1e-3  # in each direction cosine: scanners write them with 5 digits or more


class Study(NamedTuple):
    """What is answered as one.

    Attributes:
        source: what it is called: its file, or its folder with a number, and without any UID.
        units: its images in their order.
        notices: what the reader must know of how they were put together.
    """

    source: str
    units: tuple[Unit, ...]
    notices: tuple[Notice, ...]


def group_parts(names: Sequence[str], parts: Sequence[Sequence[Part]]) -> list[Study]:
    """The studies of files, in the order in which the files begin them.

    Args:
        names: of the files.
        parts: of each; none for a file that cannot be read, which is a study of its own.
    """
    series: defaultdict[Hashable, list[Unit]] = defaultdict(list)
    for file, described in enumerate(parts):
        own = described or [WHOLE]
        for part, following in zip_longest(own, own[1:]):
            end = None if following is None else following.first
            series[part.series or file].append(Unit(file, part, end))
    found: list[Study] = []
    numbers: Counter[str] = Counter()  # of series in a folder
    for units in series.values():
        pieces, reasons = _split(sorted(units, key=by_number))
        files = sorted({unit.file for unit in units})
        prefix = os.path.commonprefix([names[file] for file in files])  # noqa: RUF071
        folder = os.path.join(os.path.dirname(prefix), "")  # noqa: PTH118, PTH120
        numbers[folder] += len(files) > 1
        for number, piece in enumerate(pieces, 1):
            inside, notices = ordered(piece)
            which = [f"part {number}"] if len(pieces) > 1 else []
            if which:
                text = f"{which[0]} of {len(pieces)} of its series: they differ in "
                notices = (Notice("series.split", text + ", ".join(reasons)), *notices)
            if len(files) == 1:
                source = names[files[0]] + (f" ({which[0]})" if which else "")
            else:
                count = sum(unit.part.count or 1 for unit in inside)
                slices = f"{count} slice" + "s" * (count > 1)
                about = ", ".join([f"series {numbers[folder]}", *which, slices])
                source = f"{folder} ({about})".lstrip()
            found.append(Study(source, tuple(inside), notices))
    return found


def _split(units: list[Unit]) -> tuple[list[list[Unit]], list[str]]:
    """The pieces of a series that can each be one volume, and what they differ in."""
    dividers: list[tuple[str, Callable[[list[Unit]], list[list[Unit]]]]] = [
        # A file whose frames have no places is apart: a clip, say, or a volume of a NIfTI file.
        (
            "NumberOfFrames" if units[0].part.series else "volume",
            partial(_by, key=lambda unit: () if unit.part.count == 1 else unit),
        ),
        ("Rows, Columns", partial(_by, key=lambda unit: (unit.part.rows, unit.part.columns))),
        ("ImageOrientationPatient", _by_orientation),
        *((keyword, partial(_by_kind, index=index)) for index, keyword in enumerate(KINDS)),
    ]
    pieces, reasons = [units], list[str]()
    for reason, divide in dividers:
        parted = [each for piece in pieces for each in divide(piece)]
        reasons += [reason] * (len(parted) > len(pieces))
        pieces = parted
    return pieces, reasons


def _by(units: list[Unit], key: Callable[[Unit], Hashable]) -> list[list[Unit]]:
    found: dict[Hashable, list[Unit]] = {}
    for unit in units:
        found.setdefault(key(unit), []).append(unit)
    return list(found.values())


def _by_orientation(units: list[Unit]) -> list[list[Unit]]:
    found: list[list[Unit]] = []
    for unit in units:
        for piece in found:
            first, own = piece[0].part.orientation, unit.part.orientation
            if len(first) == len(own) and np.allclose(first, own, rtol=0, atol=_PARALLEL):
                piece.append(unit)
                break
        else:
            found.append([unit])
    return found


def _by_kind(units: list[Unit], index: int) -> list[list[Unit]]:
    """By what tells slices at one position apart, if it does not tear the volumes apart as well.

    A number that is another for each image, as some scanners count acquisitions, has more values
    than there are images at a position.
    """
    if not all(unit.part.position for unit in units):
        return [units]
    by_position = places(units)
    most = max(map(len, by_position))
    pieces = _by(units, lambda unit: unit.part.kinds[index])
    differs = any(len(_by(place, lambda unit: unit.part.kinds[index])) > 1 for place in by_position)
    return pieces if differs and len(pieces) <= most else [units]
