"""The module that draws each organ, with its functions `draw` and `acquire`."""

from medfocus.phantoms import brain, breast, lung

ANATOMIES = {"brain": brain, "lung": lung, "breast": breast}
