"""The order of a series' slices: by their position along the normal of their plane."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medfocus.engine.io.notices import Notice
from medfocus.engine.io.volumes.parts import Part

SAME_POSITION = Notice(
    "series.same_position",
    "several slices are at one position, and nothing tells them apart: they follow each other by"
    " InstanceNumber",
)
NO_POSITIONS = Notice(
    "series.no_positions", "its images have no positions: they follow each other by InstanceNumber"
)
NO_ORDER = Notice(
    "series.no_order", "its images have neither positions nor numbers: their order means nothing"
)
_SAME = 0.01  # mm: positions that are nearer to each other are one


class Unit(NamedTuple):
    """A part of a file, which is one of several.

    Attributes:
        file: its number, from 0.
        part: what it says of the part.
        end: index after the part's last image; None for the file's last part, to which whatever
            more the file is answered for belongs: errors.
    """

    file: int
    part: Part
    end: int | None


def places(units: Sequence[Unit]) -> list[list[Unit]]:
    """Slices of one orientation, those of one position together, in the order of the positions.

    Along the cross product of the directions of a row and of a column (PS3.3 C.7.6.2.1.1).
    """
    orientation = np.array(units[0].part.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    distances = [float(np.dot(normal, unit.part.position)) for unit in units]
    found: list[list[Unit]] = []
    former = -math.inf
    for place in np.argsort(distances, kind="stable"):
        if distances[place] - former >= _SAME:
            found.append([])
        found[-1].append(units[place])
        former = distances[place]
    return found


def ordered(units: Sequence[Unit]) -> tuple[list[Unit], tuple[Notice, ...]]:
    """A study's units in their order, and what the reader must know of it.

    Args:
        units: of one orientation, or without any; in the order in which they were found.
    """
    if all(unit.part.position for unit in units):
        by_position = places(units)
        notices = (SAME_POSITION,) if len(by_position) < len(units) else ()
        return [unit for place in by_position for unit in sorted(place, key=by_number)], notices
    if len({unit.file for unit in units}) == 1:
        return list(units), ()
    if any(unit.part.instance is None for unit in units):
        return list(units), (NO_ORDER,)
    return sorted(units, key=by_number), (NO_POSITIONS,)


def by_number(unit: Unit) -> tuple[float, int, int]:
    """By InstanceNumber, and as they were found where there is none."""
    instance = unit.part.instance
    return math.inf if instance is None else instance, unit.file, unit.part.first
