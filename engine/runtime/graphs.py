"""The two graphs as NumPy functions, whichever backend runs them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Graphs(Protocol):
    """Arrays in, arrays out, one batch per call.

    B images, P prompts of n points each, C classes, E embedding size; the segmenter's input is
    S×S and its masks h×w, the classifier's input R×R in g×g patches, pooled over c×c cells.
    """

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """(B, 3, S, S), (B, P, n, 2), (B, P, n) -> focus logits (B, h, w), score (B,)."""

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """(B, 3, R, R), (B, h, w), (B, c, h), (B, c, w) -> embedding (B, E),
        probabilities (B, C), patch focus (B, g, g), focused (B,)."""
