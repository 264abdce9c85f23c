"""One picture of one prediction: the image, its focus mask, its patch focus and the label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medfocus.engine.evidence.header import FAINT, INK, MARGIN, PAPER, header, write
from medfocus.engine.evidence.panels import (
    Box,
    Panel,
    fit,
    heat,
    mask_panel,
    panel_size,
    patch_panel,
    plain_panel,
)
from medfocus.errors import InputError

if TYPE_CHECKING:
    from medfocus.engine.prediction import Prediction

# All lengths are pixels of the picture.
_NARROWEST = 320  # a panel's least width, so that its captions fit
_SCALE = 110  # the colour scale's length
_CAPTIONS = 52  # height of the captions
_TEXT_ALONE = 820  # width of a picture without panels: that of two square ones
_LEAST_SQUARE = 200  # the least side of a patch focus that is drawn without its image
_BLANK = (128, 128, 128)  # in place of an image that is not there


def draw(pixels: NDArray[np.uint8], prediction: "Prediction", box: Box) -> Image.Image:
    """Draw an image, its focus mask and its patch focus side by side, below the label.

    Args:
        pixels: RGB (H, W, 3), the original image.
        prediction: for that image.
        box: top, left, bottom, right of the classifier's input in pixels of the original; with
            padding it extends beyond the image.

    Raises:
        InputError: the prediction is an error.
    """
    image = fit(pixels)
    down, across = image.height / pixels.shape[0], image.width / pixels.shape[1]
    top, left, bottom, right = box
    seen = top * down, left * across, bottom * down, right * across
    panels = (
        plain_panel(image, pixels),
        mask_panel(image, prediction),
        patch_panel(image, prediction, seen),
    )
    return _composed(prediction, panels)


def draw_without_image(prediction: "Prediction") -> Image.Image:
    """Draw what a prediction holds itself: the focus mask, and the patch focus as CLIP saw it.

    Where no region was found, or masks were not kept, only label and probabilities.

    Raises:
        InputError: the prediction is an error.
    """
    logits = prediction.focus_logits
    if logits is None or prediction.image_size is None or logits.max() <= 0:
        return _composed(prediction, ())
    blank = Image.new("RGB", panel_size(*prediction.image_size), _BLANK)
    side = max(blank.height, _LEAST_SQUARE)
    square = Image.new("RGB", (side, side), _BLANK)
    patches = patch_panel(square, prediction, (0.0, 0.0, side, side))
    return _composed(prediction, (mask_panel(blank, prediction), patches))


def _composed(prediction: "Prediction", panels: Sequence[Panel]) -> Image.Image:
    """Panels below the label; the last is that of the patch focus."""
    if prediction.label is None:
        hint = "draw only predictions that have a label"
        raise InputError(prediction.source, "has no label to draw", hint)
    width = max([_NARROWEST, *(panel.width for panel, _, _ in panels)])
    across = len(panels) * (width + MARGIN) - MARGIN if panels else _TEXT_ALONE
    text = header(prediction, across)
    top = text.height + 2 * MARGIN
    caption_top = top + max([0, *(panel.height for panel, _, _ in panels)]) + 8
    height = caption_top + _CAPTIONS if panels else top
    picture = Image.new("RGB", (text.width + 2 * MARGIN, height), PAPER)
    picture.paste(text, (MARGIN, MARGIN))
    scaled = bool(panels) and prediction.focused and prediction.patch_focus is not None
    for column, (panel, caption, detail) in enumerate(panels):
        left = MARGIN + column * (width + MARGIN)
        picture.paste(panel, (left + (width - panel.width) // 2, top))
        pen = ImageDraw.Draw(picture)
        room = width - _SCALE if column == len(panels) - 1 and scaled else width
        write(pen, (left, caption_top), caption, 15, INK, room)
        write(pen, (left, caption_top + 20), detail, 13, FAINT, room)
    if scaled:
        _scale(picture, text.width + MARGIN, caption_top)
    return picture


def _scale(picture: Image.Image, right: int, top: int) -> None:
    """A colour bar from 0 to 1 that ends at `right`."""
    pen = ImageDraw.Draw(picture)
    colours = heat(np.linspace(0, 1, _SCALE, dtype=np.float32)[None].repeat(8, axis=0))
    picture.paste(Image.fromarray(colours.round().astype(np.uint8)), (right - _SCALE, top + 4))
    pen.rectangle((right - _SCALE - 1, top + 3, right, top + 12), outline=FAINT)
    write(pen, (right - _SCALE, top + 20), "0", 13, FAINT, 20)
    pen.text((right, top + 20), "1", FAINT, ImageFont.load_default(13), anchor="ra")
