"""Arrays, tensors and grey levels of any depth to uint8 RGB."""

import math
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


@runtime_checkable
class TensorLike(Protocol):
    """A torch.Tensor, recognised by its attributes, so that torch need not be installed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""


def channels_last(tensor: TensorLike, name: str) -> NDArray[Any]:
    """A tensor, (H, W) or (C, H, W) on any device, as an array (H, W) or (H, W, C).

    Raises:
        ImageError: it cannot be copied to the host.
    """
    try:
        host = tensor.detach().cpu()
        if host.is_floating_point():
            host = host.float()  # NumPy has no bfloat16
        array = cast(NDArray[Any], host.numpy())
    except (AttributeError, RuntimeError, TypeError):
        hint = "give a dense tensor with data"
        raise ImageError(name, "cannot be copied to the host", hint) from None
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def rgb(array: NDArray[Any], name: str, max_pixels: int) -> Frame:
    """An array (H, W) or (H, W, 1|3|4) as RGB.

    Needs, for each pixel, 8 bytes and what its values take, if they are not contiguous; and 20 MiB.

    Raises:
        ImageError: another shape or dtype, too many pixels, values that are not finite or out of
            range.
    """
    shape = "x".join(map(str, array.shape)) or "no axes"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            name,
            f"has shape {shape}, which is not an image",
            "give (H, W) or (H, W, 1|3|4) arrays, or (1|3|4, H, W) tensors, one image each",
            code="image.not_an_image",
        )
    if array.size == 0:
        hint = "give an image of at least 1 x 1"
        raise ImageError(name, f"has shape {shape}: no pixels", hint, code="image.empty")
    check_size(array.shape[0] * array.shape[1], name, max_pixels)
    channels = array[..., None] if array.ndim == 2 else array  # (H, W, C)
    kind = array.dtype.kind
    if kind in "iu" and array.dtype != np.uint8:
        if channels.shape[2] == 4:
            raise ImageError(
                name,
                f"has an alpha channel of dtype {array.dtype}, whose scale is unknown",
                "convert it to uint8, or to floats in [0, 1]",
                code="image.unsupported",
            )
        return deep(channels, name)
    if kind == "f":
        levels = _from_unit_range(channels, name)
    elif kind == "b":
        levels = channels.astype(np.uint8) * np.uint8(255)
    elif kind == "u":
        levels = channels.copy()
    else:
        hint = "use bool, an integer dtype, or floats in [0, 1]"
        raise ImageError(name, f"has dtype {array.dtype}", hint, code="image.unsupported")
    if levels.shape[2] == 4:
        return Frame(over_black(levels[..., :3], levels[..., 3]))
    return Frame(grey_rgb(levels[..., 0]) if levels.shape[2] == 1 else levels)


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
    _check_finite(low, high, name)
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


def check_size(pixels: int, name: str, max_pixels: int) -> None:
    """Raise ImageError if there are too many pixels."""
    if pixels > max_pixels:
        raise too_large(name, f"{pixels} pixels", max_pixels)


def too_large(name: str, size: str, max_pixels: int) -> ImageError:
    """The error of an image of `size`, in words."""
    problem = f"{size} is more than the limit of {max_pixels} pixels"
    return ImageError(name, problem, "crop, tile or downsize it", code="image.too_large")


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


def _from_unit_range(values: Values, name: str) -> Levels:
    """Floats from 0 to 1 as levels; those outside that round to 0 or 255 are rounding errors."""
    low, high = float(values.min()), float(values.max())
    _check_finite(low, high, name)
    if round(255 * low) < 0 or round(255 * high) > 255:
        raise ImageError(
            name,
            f"holds floats from {low:g} to {high:g}, outside [0, 1]",
            "scale it to [0, 1], or convert it to uint8",
            code="image.out_of_range",
        )
    return value_by_value(values, lambda part: to_uint8(part.astype(np.float64)))


def _check_finite(low: float, high: float, name: str) -> None:
    """Of the ends of a range, which are NaN if any value is."""
    if not (math.isfinite(low) and math.isfinite(high)):
        hint = "replace them before classifying"
        raise ImageError(name, "holds NaN or infinite values", hint, code="image.not_finite")
