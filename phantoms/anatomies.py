"""Which module draws which organ: each has `draw` and `acquire`."""

from medfocus.phantoms import brain, breast, lung

ANATOMIES = {"brain": brain, "lung": lung, "breast": breast}
