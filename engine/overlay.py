"""One picture of one prediction: the image, its focus mask, its patch focus and the label."""

import unicodedata

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medfocus.engine.prediction import Prediction, mask_at
from medfocus.errors import InputError

# All lengths are pixels of the picture.
_PANEL = 400  # the longer side of the image in each panel
_NARROWEST = 320  # a panel's least width, so that its captions fit
_SCALE = 110  # the colour scale's length
_SHORTEST = 24  # the least height and width at which an image is drawn
_SMALLEST_CELL = 4  # below it, grid lines would hide the patches
_MARGIN = 20
_ROW = 26  # height of a probability bar
_TOP_CLASSES = 3

_Rgb = tuple[int, int, int]
_PAPER, _INK, _FAINT, _RULE = (255, 255, 255), (24, 24, 27), (95, 95, 104), (222, 222, 228)
_BAR, _OTHER_BAR = (0, 90, 160), (160, 174, 190)
_ALERT = (176, 58, 0)
# Cyan between two black lines: visible on grey, on skin and on stained tissue, and lighter than
# all of them to a colour-blind eye.
_MASK = (0, 220, 255)
# Five stops of viridis, whose lightness increases evenly, so that it is readable in grey too.
_HEAT_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

_Box = tuple[float, float, float, float]


def draw(pixels: NDArray[np.uint8], prediction: Prediction, box: _Box) -> Image.Image:
    """Draw an image, its focus mask and its patch focus side by side, below the label.

    Args:
        pixels: RGB (H, W, 3), the original image.
        prediction: for that image.
        box: top, left, bottom, right of the classifier's input in pixels of the original; with
            padding it extends beyond the image.

    Raises:
        InputError: the prediction is an error.
    """
    if prediction.label is None:
        hint = "draw only predictions that have a label"
        raise InputError(prediction.source, "has no label to draw", hint)
    image = _fit(pixels)
    width = max(image.width, _NARROWEST)
    header = _header(prediction, 3 * width + 2 * _MARGIN)
    top = header.height + 2 * _MARGIN
    caption_top = top + image.height + 8
    picture = Image.new("RGB", (header.width + 2 * _MARGIN, caption_top + 52), _PAPER)
    picture.paste(header, (_MARGIN, _MARGIN))
    panels = (
        _plain_panel(image, pixels),
        _mask_panel(image, prediction),
        _patch_panel(image, prediction, _scaled(box, pixels, image)),
    )
    scaled = prediction.focused and prediction.patch_focus is not None
    for column, (panel, caption, detail) in enumerate(panels):
        left = _MARGIN + column * (width + _MARGIN)
        picture.paste(panel, (left + (width - image.width) // 2, top))
        pen = ImageDraw.Draw(picture)
        room = width - _SCALE if column == 2 and scaled else width
        _write(pen, (left, caption_top), caption, 15, _INK, room)
        _write(pen, (left, caption_top + 20), detail, 13, _FAINT, room)
    if scaled:
        _scale(picture, _MARGIN + 2 * (width + _MARGIN) + width, caption_top)
    return picture


def _fit(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image at the panels' size; a very narrow one is widened so that it can be seen."""
    height, width = pixels.shape[:2]
    scale = _PANEL / max(height, width)
    size = max(_SHORTEST, round(width * scale)), max(_SHORTEST, round(height * scale))
    # Nearest when enlarging: smoothing would show detail that is not there.
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, resample)


def _scaled(box: _Box, pixels: NDArray[np.uint8], image: Image.Image) -> _Box:
    down, across = image.height / pixels.shape[0], image.width / pixels.shape[1]
    top, left, bottom, right = box
    return top * down, left * across, bottom * down, right * across


# --- panels: the drawn image, its caption, a detail


def _plain_panel(image: Image.Image, pixels: NDArray[np.uint8]) -> tuple[Image.Image, str, str]:
    return image, "Image", f"{pixels.shape[1]} x {pixels.shape[0]} pixels"


def _pale(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, _PAPER), 0.75)


def _mask_panel(image: Image.Image, prediction: Prediction) -> tuple[Image.Image, str, str]:
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


def _patch_panel(
    image: Image.Image, prediction: Prediction, box: _Box
) -> tuple[Image.Image, str, str]:
    """Each patch's focus as a colour over the grey image; pale outside the classifier's input."""
    focus = prediction.patch_focus
    if not prediction.focused or focus is None:
        return _pale(image), "Patch focus", "none: all patches have equal weight"
    cells = focus.shape[0]
    row, row_line = _cells(box[0], box[2], cells, image.height)
    column, column_line = _cells(box[1], box[3], cells, image.width)
    seen = (row >= 0)[:, None] & (column >= 0)[None, :]
    heat = _heat(focus[np.maximum(row, 0)[:, None], np.maximum(column, 0)[None, :]])
    grey = image.convert("L").convert("RGB")  # texture stays visible, and hues cannot be misread
    panel = np.where(
        seen[..., None], 0.65 * heat + 0.35 * np.asarray(grey), np.asarray(_pale(grey))
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


def _heat(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (..., 3) in [0, 255] of values in [0, 1]."""
    stops = np.linspace(0, 1, len(_HEAT_STOPS))
    channels = [np.interp(values, stops, channel) for channel in np.transpose(_HEAT_STOPS)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _scale(picture: Image.Image, right: int, top: int) -> None:
    """A colour bar from 0 to 1 that ends at `right`."""
    pen = ImageDraw.Draw(picture)
    colours = _heat(np.linspace(0, 1, _SCALE, dtype=np.float32)[None].repeat(8, axis=0))
    picture.paste(Image.fromarray(colours.round().astype(np.uint8)), (right - _SCALE, top + 4))
    pen.rectangle((right - _SCALE - 1, top + 3, right, top + 12), outline=_FAINT)
    _write(pen, (right - _SCALE, top + 20), "0", 13, _FAINT, 20)
    pen.text((right, top + 20), "1", _FAINT, ImageFont.load_default(13), anchor="ra")


# --- header


def _header(prediction: Prediction, width: int) -> Image.Image:
    """The label and the focus on the left, the most probable classes as bars on the right."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:_TOP_CLASSES]
    header = Image.new("RGB", (width, max(88, _ROW * len(ranked) + 10)), _PAPER)
    pen = ImageDraw.Draw(header)
    half = width // 2 - _MARGIN
    _write(pen, (0, 0), prediction.label or "", 30, _INK, half)
    if prediction.focused:
        score = "" if prediction.focus_score is None else f", score {prediction.focus_score:.2f}"
        _write(pen, (0, 40), f"Focused on a region{score}", 16, _INK, half)
    else:
        _write(pen, (0, 40), "Not focused: classified from the whole image", 16, _ALERT, half)
    _write(pen, (0, 66), prediction.source, 13, _FAINT, half, keep_end=True)
    for place, (name, probability) in enumerate(ranked):
        _bar(pen, (width // 2, 4 + place * _ROW), width - width // 2, name, probability)
    pen.line((0, header.height - 1, width, header.height - 1), _RULE)
    return header


def _bar(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], width: int, name: str, probability: float
) -> None:
    left, top = at
    names, number = width * 2 // 5, 62
    start, length = left + names + 8, width - names - number - 8
    colour = _BAR if top < _ROW else _OTHER_BAR
    _write(pen, at, name, 15, _INK, names)
    pen.rectangle((start, top + 2, start + length, top + 15), fill=(238, 240, 243))
    if round(length * probability):
        pen.rectangle((start, top + 2, start + round(length * probability), top + 15), fill=colour)
    font = ImageFont.load_default(15)
    pen.text((left + width, top), f"{probability:.1%}", _INK, font, anchor="ra")


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: _Rgb,
    width: int,
    keep_end: bool = False,
) -> None:
    """Write `text`, shortened to `width` pixels; of a path the end is kept, the file's name."""
    font = ImageFont.load_default(size)
    # Pillow's font has only ASCII: accents are dropped, other scripts are shown as "?".
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    plain = plain.encode("ascii", "replace").decode()
    shown, kept = plain, len(plain)
    while font.getlength(shown) > width:
        kept -= 1
        shown = "..." + plain[len(plain) - kept :] if keep_end else plain[:kept] + "..."
    pen.text(at, shown, colour, font)
