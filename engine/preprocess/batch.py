"""The two graphs' input arrays: of one image with its prompts, and of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.geometry import Geometry, pooling_weights
from medfocus.engine.preprocess.resize import classifier_pixels, normalise, segmenter_pixels
from medfocus.settings import Focus, Preprocessing, Prompts

MASK_STRIDE = 4  # SAM2's low-resolution masks have one value for 4×4 pixels of its input
NO_REGION = -32.0  # the focus logit outside of any region, as in the segmenter's graph


@dataclass(frozen=True, eq=False)
class Prepared:
    """The graphs' inputs for one image.

    Attributes:
        segmenter: uint8 (S, S, 3).
        classifier: uint8 (R, R, 3).
        rows: pooling weights, float32 (cells, h).
        cols: pooling weights, float32 (cells, w).
        points: float32 (P, n, 2), x and y in the S×S frame.
        labels: int32 (P, n).
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
    """The graphs' inputs for B images with prompts of one shape."""

    segmenter: NDArray[np.float32]  # (B, 3, S, S)
    classifier: NDArray[np.float32]  # (B, 3, R, R)
    rows: NDArray[np.float32]  # (B, cells, h)
    cols: NDArray[np.float32]  # (B, cells, w)
    points: NDArray[np.float32]  # (B, P, n, 2)
    labels: NDArray[np.int32]  # (B, P, n)

    @classmethod
    def allocate(
        cls, count: int, preprocessing: Preprocessing, cells: int, prompts: tuple[int, ...]
    ) -> "Batch":
        """Uninitialised arrays for `count` images with prompts of shape (P, n)."""
        first, second = preprocessing.segmenter, preprocessing.classifier
        weights = (count, cells, first.size // MASK_STRIDE)
        return cls(
            np.empty((count, 3, first.size, first.size), np.float32),
            np.empty((count, 3, second.size, second.size), np.float32),
            np.empty(weights, np.float32),
            np.empty(weights, np.float32),
            np.zeros((count, *prompts, 2), np.float32),
            np.zeros((count, *prompts), np.int32),
        )

    def write(self, row: int, item: Prepared, preprocessing: Preprocessing) -> None:
        """Normalise an image into its row."""
        first, second = preprocessing.segmenter, preprocessing.classifier
        normalise(item.segmenter, first.mean, first.std, self.segmenter[row])
        normalise(item.classifier, second.mean, second.std, self.classifier[row])
        self.rows[row], self.cols[row] = item.rows, item.cols
        self.points[row], self.labels[row] = item.points, item.labels


def pooled_cells(preprocessing: Preprocessing, focus: Focus) -> int:
    """Rows and columns of pooled cells: one per patch, or in `overlay` mode one per pixel."""
    second = preprocessing.classifier
    return second.size if focus.mode == "overlay" else second.patch_grid


def prepare(
    image: SourceImage, preprocessing: Preprocessing, focus: Focus, prompts: Prompts
) -> Prepared:
    """Resize an image for both models, and transform its prompts to SAM2's frame.

    Args:
        image: the decoded image.
        preprocessing: the manifest's.
        focus: the manifest's.
        prompts: the manifest's, or the caller's own for this image (`own_prompt`).

    Raises:
        ImageError: so long and thin that resizing it for CLIP would make it too large.
    """
    first = preprocessing.segmenter
    size = image.pixels.shape[0], image.pixels.shape[1]
    return Prepared(
        segmenter_pixels(image.pixels, first.size),
        classifier_view(image, preprocessing),
        *pooling(size, preprocessing, focus, image.pixel_aspect),
        *in_frame(prompts, first.size),
        size,
    )


def classifier_view(image: SourceImage, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """CLIP's input for an image, before normalisation: uint8 (R, R, 3).

    Raises:
        ImageError: so long and thin that resizing it for CLIP would make it too large.
    """
    second = preprocessing.classifier
    return classifier_pixels(
        image.pixels,
        second.size,
        second.resize_mode,
        second.interpolation,
        image.source,
        image.pixel_aspect,
    )


def pooling(
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    focus: Focus,
    pixel_aspect: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pooling weights, rows (cells, h) and cols (cells, w), for an image of size (H, W)."""
    second, mask = preprocessing.classifier, preprocessing.segmenter.size // MASK_STRIDE
    geometry = Geometry.fit(*image_size, second.size, second.resize_mode, pixel_aspect)
    return pooling_weights(geometry, pooled_cells(preprocessing, focus), mask, mask)


def in_frame(prompts: Prompts, size: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points (P, n, 2) in pixels of SAM2's size×size frame, and labels (P, n)."""
    points = (np.array(prompts.points) * size).astype(np.float32)
    return points, np.array(prompts.labels, np.int32)


def collate(prepared: Sequence[Prepared], preprocessing: Preprocessing) -> Batch:
    """Stack and normalise images whose prompts have the same shape."""
    like = prepared[0]
    batch = Batch.allocate(len(prepared), preprocessing, len(like.rows), like.labels.shape)
    for row, item in enumerate(prepared):
        batch.write(row, item, preprocessing)
    return batch


def no_focus(
    count: int, preprocessing: Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The segmenter's outputs when no region is found: logits (B, h, w) and score (B,)."""
    side = preprocessing.segmenter.size // MASK_STRIDE
    return np.full((count, side, side), NO_REGION, np.float32), np.zeros(count, np.float32)
