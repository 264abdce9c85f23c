"""Voxels of a NIfTI file to grey levels: one window for a whole volume.

So that its slices can be compared. The file's own display range (cal_min, cal_max) where it has
one; else from the 0.5th to the 99.5th percentile of the values that are not 0, as in MedSAM's
preparation of volumes (Ma et al., Nature Communications 15, 654, 2024): of MR and PET, the highest
values are those of few voxels.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.notices import CONSTANT, Notice
from medfocus.engine.io.pixels.levels import (
    Levels,
    Values,
    bands,
    grey_rgb,
    to_uint8,
    value_by_value,
)
from medfocus.engine.io.volumes.nifti_header import NiftiHeader

VOLUME_WINDOW = Notice(
    "pixels.volume_window",
    "no display range in the file: from the 0.5th to the 99.5th percentile of the volume's values",
)
NOT_FINITE = Notice("pixels.not_finite", "voxels that are no finite numbers are shown black")
_PERCENTILES = (0.5, 99.5)
_SAMPLES = 2**20  # voxels from which percentiles are taken, spread over the volume


class Window(NamedTuple):
    """How a volume is shown.

    Attributes:
        low, high: values that are shown black and white; equal if all voxels are.
        notices: what the reader must know of it.
        slabs: how many places on the volume's third axis the file holds.
    """

    low: float
    high: float
    notices: tuple[Notice, ...]
    slabs: int


def window_of(slabs: Iterable[Values | None], header: NiftiHeader) -> Window:
    """The window of a volume, read slab by slab.

    Args:
        slabs: the stored values of its places on the third axis, (X, Y); None where the file ends.
        header: of the file.
    """
    voxels = math.prod(header.shape[:3])
    step = max(1, -(-voxels // _SAMPLES))
    while math.gcd(step, voxels) > 1:  # or only some of the columns would be looked at
        step += 1
    samples: list[NDArray[np.float64]] = []
    low, high, whole, passed = math.inf, -math.inf, 0, 0
    for slab in slabs:
        if slab is None:
            break
        whole += 1
        if header.colour:
            continue
        flat = slab.reshape(-1)
        for ends in _ends(flat):
            values = _finite(_scaled(ends, header))
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        samples.append(_scaled(flat[-passed % step :: step], header))
        passed += flat.size
    if header.colour:
        return Window(0.0, 255.0, (), whole)
    notices: tuple[Notice, ...] = ()
    if header.window is not None and header.window[0] < high and header.window[1] > low:
        low, high = header.window
    elif low < high:
        notices = (VOLUME_WINDOW,)
        values = _finite(np.concatenate(samples))
        values = values[values != 0]
        if values.size:
            inner = np.percentile(values, _PERCENTILES)
            if inner[0] < inner[1]:
                low, high = float(inner[0]), float(inner[1])
    return Window(low, high, notices, whole)


def shown(values: Values, window: Window, header: NiftiHeader) -> tuple[Levels, tuple[Notice, ...]]:
    """A slice's stored values, (H, W) or RGB (H, W, 3), as RGB, and what its reader must know."""
    if header.colour:
        return values, ()
    low, high, notices, _ = window
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        notices = (*notices, NOT_FINITE)
    if not low < high:
        return np.zeros((*values.shape, 3), np.uint8), (*notices, CONSTANT)

    def look(part: Values) -> Levels:
        scaled = _scaled(part, header)
        unit = (scaled - low) / (high - low)
        return to_uint8(np.where(np.isfinite(scaled), unit, 0))

    return grey_rgb(value_by_value(values, look)), notices


def _scaled(stored: Values, header: NiftiHeader) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: NDArray[np.float64] = stored.astype(np.float64) * header.slope + header.inter
    return scaled


def _ends(stored: Values) -> Iterator[Values]:
    """Some of the values (n,), the lowest and the highest that are finite among them."""
    if stored.dtype.kind in "iu":
        yield np.array([stored.min(), stored.max()])
    else:
        yield from (stored[part] for part in bands(stored.size))


def _finite(values: NDArray[np.float64]) -> NDArray[Any]:
    finite: NDArray[Any] = values[np.isfinite(values)]
    return finite
