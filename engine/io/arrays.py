"""Arrays and tensors to uint8 RGB."""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.pixels.deep import check_finite, deep, over_black
from medfocus.engine.io.pixels.levels import Levels, Values, grey_rgb, to_uint8, value_by_value
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


def check_size(pixels: int, name: str, max_pixels: int) -> None:
    """Raise ImageError if there are too many pixels."""
    if pixels > max_pixels:
        raise too_large(name, f"{pixels} pixels", max_pixels)


def too_large(name: str, size: str, max_pixels: int) -> ImageError:
    """The error of an image of `size`, in words."""
    problem = f"{size} is more than the limit of {max_pixels} pixels"
    return ImageError(name, problem, "crop, tile or downsize it", code="image.too_large")


def _from_unit_range(values: Values, name: str) -> Levels:
    """Floats from 0 to 1 as levels; those outside that round to 0 or 255 are rounding errors."""
    low, high = float(values.min()), float(values.max())
    check_finite(low, high, name)
    if round(255 * low) < 0 or round(255 * high) > 255:
        raise ImageError(
            name,
            f"holds floats from {low:g} to {high:g}, outside [0, 1]",
            "scale it to [0, 1], or convert it to uint8",
            code="image.out_of_range",
        )
    return value_by_value(values, lambda part: to_uint8(part.astype(np.float64)))
