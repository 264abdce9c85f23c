"""What has more than 8 bits, and alpha, to 8-bit RGB."""

import math

import numpy as np

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import CONSTANT, MIN_MAX
from medfocus.engine.io.pixels.levels import (
    Floats,
    Levels,
    Values,
    bands,
    grey_rgb,
    to_uint8,
    value_by_value,
)
from medfocus.errors import ImageError


def deep(
    values: Values, name: str, alpha: Values | None = None, white_is_low: bool = False
) -> Frame:
    """Grey or colour of more than 8 bits, or float, which has no fixed scale: min-max normalised.

    All channels have one range, that of the pixels that are not transparent.

    Args:
        values: (H, W, 1) or (H, W, 3).
        name: of the image, in errors.
        alpha: (H, W), composited over black. The greatest is opaque: where 12-bit values are
            stored in 16 bits, so is their alpha.
        white_is_low: the lowest value is white.

    Raises:
        ImageError: values that are not finite.
    """
    values = np.ascontiguousarray(values)
    low, high = _range(values, alpha)
    check_finite(low, high, name)
    if low == high:
        return Frame(np.zeros((*values.shape[:2], 3), np.uint8), (CONSTANT,))
    span = high - low

    def look(part: Values) -> Levels:
        unit: Floats = (part.astype(np.float64) - low) / span
        return to_uint8(1 - unit if white_is_low else unit)

    levels = value_by_value(values, look)
    levels = grey_rgb(levels[..., 0]) if levels.shape[2] == 1 else levels
    if alpha is not None:
        opaque = float(alpha.max()) or 1.0
        opacity = value_by_value(alpha, lambda part: to_uint8(part / opaque))
        levels = over_black(levels, opacity)
    return Frame(levels, (MIN_MAX,))


def over_black(rgb: Levels, alpha: Levels) -> Levels:
    """Composite colours (H, W, 3) with alpha (H, W) over black: (H, W, 3)."""
    shown = np.empty(rgb.shape, np.uint8)
    flat, flat_alpha, out = rgb.reshape(-1, 3), alpha.reshape(-1, 1), shown.reshape(-1, 3)
    for part in bands(len(flat)):
        opacity = flat_alpha[part].astype(np.uint16)
        out[part] = (flat[part] * opacity + 127) // 255  # 255² + 127 fits in 16 bits
    return shown


def check_finite(low: float, high: float, name: str) -> None:
    """Raise ImageError unless both ends of a range are finite; they are NaN if any value is."""
    if not (math.isfinite(low) and math.isfinite(high)):
        hint = "replace them before classifying"
        raise ImageError(name, "holds NaN or infinite values", hint, code="image.not_finite")


def _range(values: Values, alpha: Values | None) -> tuple[float, float]:
    """The lowest and the highest of values (H, W, C) that are visible; of all, if none is.

    NaN if any of those is.
    """
    if alpha is None or not alpha.any():
        return float(values.min()), float(values.max())
    low, high = math.inf, -math.inf
    flat, flat_alpha = values.reshape(-1, values.shape[2]), alpha.reshape(-1)
    for part in bands(len(flat)):
        visible = flat[part][flat_alpha[part] > 0]
        if visible.size:
            low = float(np.minimum(low, visible.min()))
            high = float(np.maximum(high, visible.max()))
    return low, high
