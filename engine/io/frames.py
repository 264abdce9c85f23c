"""One decoded image of a source, before it has a name."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.notices import Notice


class Frame(NamedTuple):
    """One decoded image.

    Attributes:
        pixels: uint8 RGB (H, W, 3).
        warnings: what its reader must know of how it was read.
        pixel_aspect: a stored pixel's height over its width.
    """

    pixels: NDArray[np.uint8]
    warnings: tuple[Notice, ...] = ()
    pixel_aspect: float = 1.0
