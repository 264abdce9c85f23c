"""One image and its prompts to what the two graphs take, and images to batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.geometry import Geometry, pooling_weights
from medfocus.engine.images import SourceImage
from medfocus.engine.preprocess import classifier_pixels, normalise, segmenter_pixels
from medfocus.errors import InputError
from medfocus.settings import (
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    Focus,
    Preprocessing,
    Prompts,
)

MASK_STRIDE = 4  # SAM2's low-resolution masks have one value for 4×4 pixels of its input

Box = Sequence[float]  # left, top, right, bottom in pixels of the source image
Points = Sequence[Sequence[float]]  # (x, y) or (x, y, label) in pixels of the source image


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the graphs take of one image.

    Attributes:
        segmenter: uint8 (S, S, 3); classifier: uint8 (R, R, 3).
        rows: float32 (cells, h); cols: float32 (cells, w): the pooling weights.
        points: float32 (P, n, 2), x and y in the S×S frame; labels: int32 (P, n).
        image_size: height and width of the source image.
    """

    segmenter: NDArray[np.uint8]
    classifier: NDArray[np.uint8]
    rows: NDArray[np.float32]
    cols: NDArray[np.float32]
    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    image_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Batch:
    """What the graphs take of B images with equally shaped prompts; float32, labels int32."""

    segmenter: NDArray[np.float32]  # (B, 3, S, S)
    classifier: NDArray[np.float32]  # (B, 3, R, R)
    rows: NDArray[np.float32]  # (B, cells, h)
    cols: NDArray[np.float32]  # (B, cells, w)
    points: NDArray[np.float32]  # (B, P, n, 2)
    labels: NDArray[np.int32]  # (B, P, n)


def prepare(
    image: SourceImage,
    preprocessing: Preprocessing,
    focus: Focus,
    prompts: Prompts,
    box: Box | None = None,
    points: Points | None = None,
) -> Prepared:
    """Resize an image for both models, and put its prompts into SAM2's frame.

    Args:
        image: what was read.
        preprocessing, focus, prompts: the manifest's.
        box, points: the caller's prompt for this image, in its own pixels; together they are one
            prompt. Without them the zero-shot set is used.

    Raises:
        InputError: a box or points that are malformed or lie outside the image.
    """
    height, width = image.pixels.shape[:2]
    first, second = preprocessing.segmenter, preprocessing.classifier
    geometry = Geometry.fit(height, width, second.size, second.resize_mode)
    cells = second.size if focus.mode == "overlay" else second.patch_grid
    mask = first.size // MASK_STRIDE
    rows, cols = pooling_weights(geometry, cells, mask, mask)
    if box is None and points is None:
        relative, labels = np.array(prompts.points), np.array(prompts.labels)
    else:
        relative, labels = _own_prompt(box, points, height, width, image.source)
    return Prepared(
        segmenter_pixels(image.pixels, first.size),
        classifier_pixels(
            image.pixels, second.size, second.resize_mode, second.interpolation, image.source
        ),
        rows,
        cols,
        (relative * first.size).astype(np.float32),
        labels.astype(np.int32),
        (height, width),
    )


def collate(prepared: Sequence[Prepared], preprocessing: Preprocessing) -> Batch:
    """Stack images whose prompts have the same shape, and normalise them."""
    first, second = preprocessing.segmenter, preprocessing.classifier
    return Batch(
        normalise(np.stack([item.segmenter for item in prepared]), first.mean, first.std),
        normalise(np.stack([item.classifier for item in prepared]), second.mean, second.std),
        np.stack([item.rows for item in prepared]),
        np.stack([item.cols for item in prepared]),
        np.stack([item.points for item in prepared]),
        np.stack([item.labels for item in prepared]),
    )


def _own_prompt(
    box: Box | None, points: Points | None, height: int, width: int, source: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One prompt: points (1, n, 2) in [0, 1] of the image and labels (1, n), box corners first."""
    corners: list[tuple[float, float, int]] = []
    if box is not None:
        left, top, right, bottom = _numbers(
            box, (4,), f"box of {source}", "left, top, right, bottom"
        )
        if not (left < right and top < bottom):
            raise InputError(
                f"box of {source}", "has no area", "give left < right and top < bottom, in pixels"
            )
        corners = [(left, top, BOX_TOP_LEFT), (right, bottom, BOX_BOTTOM_RIGHT)]
    for point in () if points is None else points:
        x, y, *label = _numbers(point, (2, 3), f"point of {source}", "x, y or x, y, label")
        kind = label[0] if label else FOREGROUND
        if kind not in (BACKGROUND, FOREGROUND):
            raise InputError(
                f"point of {source}", f"has label {kind:g}", "use 1 for inside and 0 for outside"
            )
        corners.append((x, y, int(kind)))
    if not corners:
        raise InputError(f"points of {source}", "are empty", "give at least one, or None")
    places = np.array([corner[:2] for corner in corners])[None] / (width, height)
    if not ((places >= 0) & (places <= 1)).all():
        raise InputError(
            f"prompt of {source}",
            f"lies outside the image, which is {width} pixels wide and {height} high",
            "give pixels of the original image",
        )
    return places, np.array([[corner[2] for corner in corners]])


def _numbers(
    values: Sequence[float], lengths: tuple[int, ...], item: str, form: str
) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in lengths or not np.isfinite(numbers).all():
        raise InputError(item, "is malformed", f"give {form} as finite numbers")
    return numbers
