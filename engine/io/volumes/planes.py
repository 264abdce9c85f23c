"""Which way a volume's slices lie, and how a radiologist sees them; nothing is resampled.

Pictures are turned as DICOM's slices are: the patient's right is on the picture's left, the front
of an axial slice and the head of the others are at the top, the front of a sagittal one is left.
"""

from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

# By the axis of the body that the slices are counted along (0 right, 1 front, 2 top): the axis that
# a picture's rows go along and its direction, the same of its columns, and of the slices: those of
# ImageOrientationPatient 1\0\0\0\0\-1 … and of its normal (PS3.3 C.7.6.2.1.1), in which DICOM's x
# and y point left and backward.
_VIEWS = {
    2: ((1, -1), (0, -1), (2, 1)),  # axial: rows backward, columns leftward, slices upward
    1: ((2, -1), (0, -1), (1, -1)),  # coronal: rows downward, columns leftward, slices backward
    0: ((2, -1), (1, -1), (0, 1)),  # sagittal: rows downward, columns backward, slices rightward
}
_EQUAL = 1.01  # spacings that differ by less are one


class Line(NamedTuple):
    """An axis of a volume as it is stored: its number, its length, and whether it is reversed."""

    axis: int
    length: int
    reverse: bool

    def stored(self, place: int) -> int:
        """The stored index of a place, both from 0."""
        return self.length - 1 - place if self.reverse else place


class Planes(NamedTuple):
    """A volume's slices.

    Attributes:
        rows: the stored axis along which a picture's rows follow each other.
        columns: likewise.
        slices: the axis along which the slices do.
        pixel_aspect: a pixel's height over its width.
    """

    rows: Line
    columns: Line
    slices: Line
    pixel_aspect: float


def planes(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Planes:
    """The slices of a volume: across its largest spacing, and axial if it has none that is larger.

    Each stored axis counts as the axis of the body that it is closest to, as in nibabel's
    `as_closest_canonical`. An axis of one voxel is across the only slice.

    Args:
        shape: (X, Y, Z).
        affine: (4, 4), from indices to millimetres rightward, forward and upward.
    """
    sizes = voxel_sizes(affine)
    orientation = io_orientation(affine)  # of each stored axis: the body's axis, and 1 or -1
    stored = {int(axis): number for number, (axis, _) in enumerate(orientation)}
    single = [axis for axis in (2, 1, 0) if shape[stored[axis]] == 1]
    widest = max(sizes)
    wide = [axis for axis in (2, 1, 0) if sizes[stored[axis]] * _EQUAL > widest]
    rows, columns, slices = (
        Line(stored[axis], shape[stored[axis]], orientation[stored[axis]][1] != direction)
        for axis, direction in _VIEWS[(single or wide)[0]]
    )
    return Planes(rows, columns, slices, float(sizes[rows.axis] / sizes[columns.axis]))
