"""A mask's outlines as a GeoJSON geometry."""

from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A MultiPolygon (RFC 7946, 3.1.7): per region its outer ring, then those of its holes.

    A pixel is in the mask if and only if its centre is in a polygon: the outlines are marching
    squares' between the centres. Regions that touch at a corner only may be one or two.

    Args:
        mask: bool (H, W).

    Returns:
        Closed rings of (x, y), in pixels from the image's upper left corner as boxes and points
        are: the centre of the first pixel is (0.5, 0.5).
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return {"type": "MultiPolygon", "coordinates": []}
    top, left = rows[0], columns[0]
    # Only where the mask is: contours take 24 bytes per pixel. With background around it, so that
    # rings close.
    framed = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    height, width = framed.shape
    x, y = np.arange(width) + left - 0.5, np.arange(height) + top - 0.5
    generator = contour_generator(x, y, framed, fill_type=FillType.OuterOffset)
    regions = zip(*generator.filled(0.5, 2.0), strict=True)
    coordinates = [
        [_corners(points[first:end]) for first, end in pairwise(offsets)]
        for points, offsets in regions
    ]
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _corners(ring: NDArray[np.float64]) -> list[list[float]]:
    """A closed ring (N, 2) without the points between two corners; exact, as all are halves."""
    after = np.diff(ring, axis=0)
    before = np.roll(after, 1, axis=0)
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: list[list[float]] = ring[:-1][turns].tolist()
    return [*corners, corners[0]]
