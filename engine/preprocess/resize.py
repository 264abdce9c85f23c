"""Source pixels to the two models' inputs, as open_clip and SAM2 preprocess them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine.io.images import MAX_PIXELS
from medfocus.engine.preprocess.geometry import crop_offset, resized_size
from medfocus.errors import ImageError
from medfocus.settings import Interpolation, ResizeMode, Rgb

_COPIED = 2**23  # pixels that pillow may copy into four bytes each, 32 MiB
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def classifier_pixels(
    image: NDArray[np.uint8],
    size: int,
    mode: ResizeMode,
    interpolation: Interpolation = "bicubic",
    name: str = "image",
    pixel_aspect: float = 1.0,
) -> NDArray[np.uint8]:
    """Resize, then crop or pad with black: open_clip's evaluation transform up to its ToTensor.

    Args:
        image: uint8 RGB (H, W, 3).
        size: side R of the classifier's input, pixels.
        mode: open_clip's resize mode; `Geometry.fit` describes the result.
        interpolation: open_clip's, antialiased.
        name: of the image, in errors.
        pixel_aspect: a pixel's height over its width; those of the result are square.

    Returns:
        uint8 RGB (R, R, 3).

    Raises:
        ImageError: so long and thin that, resized and not yet cropped, it exceeds MAX_PIXELS.
    """
    height, width = checked_size(image.shape[0], image.shape[1], size, mode, name, pixel_aspect)
    resized = _resized(image, width, height, _RESAMPLING[interpolation])
    top, left = crop_offset(height, size), crop_offset(width, size)
    # Outside the image pillow's crop is black, which is open_clip's padding.
    return np.array(resized.crop((left, top, left + size, top + size)))


def checked_size(
    height: int, width: int, size: int, mode: ResizeMode, name: str, pixel_aspect: float = 1.0
) -> tuple[int, int]:
    """Height and width of a resized image, before it is cropped or padded.

    Raises:
        ImageError: more than MAX_PIXELS.
    """
    resized = resized_size(height, width, size, mode, pixel_aspect)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise ImageError(
            name,
            f"its {height} x {width} pixels would become {resized[0]} x {resized[1]}"
            f" when the shortest side is resized to {size}",
            'crop it, or use the resize mode "longest"',
            code="image.too_large",
        )
    return resized


def segmenter_pixels(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize uint8 RGB (H, W, 3) to SAM2's square frame (S, S, 3): bilinear, antialiased.

    Within one grey level of sam2's SAM2Transforms, which resizes in float32 and does not round.
    """
    return np.array(_resized(image, size, size, Image.Resampling.BILINEAR))


def _resized(
    image: NDArray[np.uint8], width: int, height: int, resampling: Image.Resampling
) -> Image.Image:
    """`Image.resize`, to the bit; of a large image channel by channel, which copies a third."""
    if image.shape[0] * image.shape[1] <= _COPIED:
        return Image.fromarray(image).resize((width, height), resampling)
    channels = (Image.fromarray(np.ascontiguousarray(image[..., each])) for each in range(3))
    return Image.merge("RGB", [each.resize((width, height), resampling) for each in channels])


def normalise(
    image: NDArray[np.uint8], mean: Rgb, std: Rgb, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(image / 255 − mean) / std: uint8 (..., S, S, 3) to contiguous float32 (..., 3, S, S).

    Written into `out` if it is given. Rounds like torchvision's ToTensor and Normalize, so that
    the values are bitwise equal to theirs.
    """
    channels_first = np.moveaxis(image, -1, -3)  # (..., 3, S, S)
    if out is None:
        out = np.empty(channels_first.shape, np.float32)
    np.divide(channels_first, np.float32(255), out=out)
    out -= np.array(mean, dtype=np.float32)[:, None, None]
    out /= np.array(std, dtype=np.float32)[:, None, None]
    return out
