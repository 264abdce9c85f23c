"""COCO's uncompressed run-length encoding of a mask (pycocotools, common/maskApi.h).

pycocotools itself writes only the compressed one, which nothing but it reads.
"""

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs, column by column, of 0 and 1 by turns, beginning with 0: bool (H, W)."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0] if not pixels[:1].any() else [0, 0], changes, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return lengths
