"""Values to 8-bit levels one by one, in memory of a few bytes per pixel.

What is computed per value is computed once for each that may occur, where those are few, and else
for some pixels at a time: no float64 image ever exists.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Floats = NDArray[np.float64]
Levels = NDArray[np.uint8]

_FEW = 2**16  # as many values as 16 bits can store
_BAND = 2**17  # values at a time: 1 MiB for each float64 temporary


def value_by_value(values: Values, look: Callable[[Values], Levels]) -> Levels:
    """What `look` makes of each value.

    Needs one byte per level that it returns, 20 MiB, and a copy of values that are not contiguous.

    Args:
        values: of any shape, not empty.
        look: from (n,) to (n,) or (n, C), where each row depends on its value only.

    Returns:
        uint8 (*shape,) or (*shape, C).
    """
    flat = values.reshape(-1)
    few = _few(flat)
    table = None if few is None else look(few)
    shown: Levels | None = None
    for part in bands(flat.size):
        if few is None or table is None:
            levels = look(flat[part])
        else:
            levels = table.take(_offsets(flat[part], few[0]), axis=0)
        if shown is None:
            shown = np.empty((flat.size, *levels.shape[1:]), np.uint8)
        shown[part] = levels
    assert shown is not None
    return shown.reshape(*values.shape, *shown.shape[1:])


def distinct(values: Values) -> Iterator[Values]:
    """The values that occur, as arrays (n,): each once where they are few, else all of them."""
    flat = values.reshape(-1)
    few = _few(flat)
    if few is None:
        yield from (flat[part] for part in bands(flat.size))
        return
    occurs = np.zeros(few.size, np.bool_)
    for part in bands(flat.size):
        occurs[_offsets(flat[part], few[0])] = True
    yield few[occurs]


def bands(count: int) -> Iterator[slice]:
    """All of `count` values or pixels, some at a time."""
    return (slice(start, start + _BAND) for start in range(0, count, _BAND))


def to_uint8(unit: Floats) -> Levels:
    """Levels 0 … 255 of values from 0 to 1; those outside are clipped."""
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def grey_rgb(levels: Levels) -> Levels:
    """(H, W) -> (H, W, 3)."""
    return levels[..., None].repeat(3, axis=2)


def _few(flat: Values) -> Values | None:
    """All integers from the lowest to the highest value; None if they are not few."""
    if flat.dtype.kind not in "iu":
        return None
    low, high = int(flat.min()), int(flat.max())
    if high - low >= min(flat.size, _FEW):
        return None
    few: Values = np.arange(high - low + 1).astype(flat.dtype) + flat.dtype.type(low)
    return few


def _offsets(values: Values, low: np.integer[Any]) -> NDArray[np.intp]:
    # The difference may pass the range of a signed type, but wraps around to the right bits.
    offsets: NDArray[np.intp] = (values - low).view(f"u{values.itemsize}").astype(np.intp)
    return offsets
