"""Panels of a picture: an image with its focus mask, and the patch focus as colours."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine.evidence.header import PAPER
from medfocus.engine.evidence.mask import mask_at

if TYPE_CHECKING:
    from medfocus.engine.prediction import Prediction

# All lengths are pixels of the picture.
_PANEL = 400  # the longer side of the image in each panel
_SHORTEST = 24  # the least height and width at which an image is drawn
_SMALLEST_CELL = 4  # below it, grid lines would hide the patches

# Cyan between two black lines: visible on grey, on skin and on stained tissue, and lighter than
# all of them to a colour-blind eye.
_MASK = (0, 220, 255)
# Five stops of viridis, whose lightness increases evenly, so that it is readable in grey too.
_HEAT_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

Box = tuple[float, float, float, float]  # top, left, bottom, right
Panel = tuple[Image.Image, str, str]  # the drawn image, its caption, a detail


def panel_size(height: int, width: int) -> tuple[int, int]:
    """Width and height of a panel; a very narrow image is widened so that it can be seen."""
    scale = _PANEL / max(height, width)
    return max(_SHORTEST, round(width * scale)), max(_SHORTEST, round(height * scale))


def fit(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image at the panels' size."""
    height, width = pixels.shape[:2]
    size, scale = panel_size(height, width), _PANEL / max(height, width)
    # Nearest when enlarging: smoothing would show detail that is not there.
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, resample)


def plain_panel(image: Image.Image, pixels: NDArray[np.uint8]) -> Panel:
    """The image itself."""
    return image, "Image", f"{pixels.shape[1]} x {pixels.shape[0]} pixels"


def _pale(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, PAPER), 0.75)


def mask_panel(image: Image.Image, prediction: "Prediction") -> Panel:
    """The image with its focus mask tinted and outlined."""
    if prediction.focus_logits is None:
        return _pale(image), "Focus mask", "none: plain CLIP, no segmentation"
    mask = mask_at(prediction.focus_logits, image.height, image.width)
    if not mask.any():
        return _pale(image), "Focus mask", "none: no region was found"
    canvas = np.asarray(image).astype(np.float32)
    canvas[mask] = 0.75 * canvas[mask] + 0.25 * np.array(_MASK)
    grown = _grow(mask, 1)
    line = grown & ~_shrink(mask, 1)
    canvas[(_grow(mask, 2) & ~grown) | (_shrink(mask, 1) & ~_shrink(mask, 2))] = 0
    canvas[line] = _MASK
    detail = f"covers {mask.mean():.1%} of the image"
    if not prediction.focused:
        detail += ", outside what the classifier sees"
    return Image.fromarray(canvas.round().astype(np.uint8)), "Focus mask", detail


def _grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask and its neighbours up to `steps` pixels away (in diagonals, half as far)."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _shrink(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    return ~_grow(~mask, steps)


def patch_panel(image: Image.Image, prediction: "Prediction", box: Box) -> Panel:
    """Each patch's focus as a colour over the grey image; pale outside the classifier's input."""
    focus = prediction.patch_focus
    if not prediction.focused or focus is None:
        return _pale(image), "Patch focus", "none: all patches have equal weight"
    cells = focus.shape[0]
    row, row_line = _cells(box[0], box[2], cells, image.height)
    column, column_line = _cells(box[1], box[3], cells, image.width)
    seen = (row >= 0)[:, None] & (column >= 0)[None, :]
    colours = heat(focus[np.maximum(row, 0)[:, None], np.maximum(column, 0)[None, :]])
    grey = image.convert("L").convert("RGB")  # texture stays visible, and hues cannot be misread
    panel = np.where(
        seen[..., None], 0.65 * colours + 0.35 * np.asarray(grey), np.asarray(_pale(grey))
    )
    panel[(row_line[:, None] | column_line[None, :]) & seen] *= 0.75
    detail = f"{cells} x {cells} patches"
    if not seen.all():
        detail += "; pale: not seen"
    return Image.fromarray(panel.round().astype(np.uint8)), "Patch focus", detail


def _cells(
    start: float, stop: float, cells: int, length: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The cell of [start, stop] that each of `length` pixels is in (-1: none), and grid lines."""
    cell = np.floor((np.arange(length) + 0.5 - start) * cells / (stop - start)).astype(np.intp)
    cell[(cell < 0) | (cell >= cells)] = -1
    line = np.zeros(length, bool)
    if stop - start >= _SMALLEST_CELL * cells:
        line[1:] = cell[1:] != cell[:-1]
    return cell, line


def heat(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (..., 3) in [0, 255] of values in [0, 1]."""
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(values, stops, channel) for channel in np.transpose(_HEAT_STOPS)]
    return np.stack(channels, axis=-1).astype(np.float32)
