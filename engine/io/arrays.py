"""Arrays, tensors and grey levels of any depth to uint8 RGB."""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.dicom_display import min_max_normalised
from medfocus.errors import ImageError

MIN_MAX_NOTE = "no fixed scale: grey levels are min-max normalised"


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
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ImageError(
            name, f"cannot be copied to the host ({error})", "give a dense tensor with data"
        ) from error
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def rgb(
    array: NDArray[Any], name: str, max_pixels: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels uint8 RGB (H, W, 3) of an array (H, W) or (H, W, 1|3|4), and warnings.

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
    channels = array.reshape(*array.shape[:2], -1)  # (H, W, C)
    warnings: tuple[str, ...] = ()
    if array.dtype == np.uint8:
        levels = channels.astype(np.uint8)  # a copy
    elif array.dtype.kind == "b":
        levels = channels.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind in "iu":
        if channels.shape[2] == 4:
            raise ImageError(
                name,
                f"has an alpha channel of dtype {array.dtype}, whose scale is unknown",
                "convert it to uint8, or to floats in [0, 1]",
                code="image.unsupported",
            )
        levels, warnings = min_max_normalised(channels), (MIN_MAX_NOTE,)
    elif array.dtype.kind == "f":
        levels = _from_unit_range(channels, name)
    else:
        hint = "use bool, an integer dtype, or floats in [0, 1]"
        raise ImageError(name, f"has dtype {array.dtype}", hint, code="image.unsupported")
    if levels.shape[2] == 4:
        return over_black(levels), warnings
    if levels.shape[2] == 1:
        levels = levels.repeat(3, axis=2)
    return levels, warnings


def rgb_of_deep_grey(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Grey of more than 8 bits or float (H, W), min-max normalised, as RGB (H, W, 3).

    Raises:
        ImageError: values that are not finite.
    """
    _check_finite(values, name)
    return min_max_normalised(values)[..., None].repeat(3, axis=2)


def over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite (H, W, 4) over black."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)  # 255² + 127 fits in 16 bits


def check_size(pixels: int, name: str, max_pixels: int) -> None:
    """Raise ImageError if there are too many pixels."""
    if pixels > max_pixels:
        raise too_large(name, f"{pixels} pixels", max_pixels)


def too_large(name: str, size: str, max_pixels: int) -> ImageError:
    """The error of an image of `size`, in words."""
    problem = f"{size} is more than the limit of {max_pixels} pixels"
    return ImageError(name, problem, "crop, tile or downsize it", code="image.too_large")


def _from_unit_range(values: NDArray[np.floating[Any]], name: str) -> NDArray[np.uint8]:
    _check_finite(values, name)
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        raise ImageError(
            name,
            f"holds floats from {low:g} to {high:g}, outside [0, 1]",
            "scale it to [0, 1], or convert it to uint8",
            code="image.out_of_range",
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _check_finite(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        hint = "replace them before classifying"
        raise ImageError(name, "holds NaN or infinite values", hint, code="image.not_finite")
