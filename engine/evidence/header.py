"""Text of a picture: the label and the focus, the most probable classes as bars."""

import unicodedata
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from medfocus.engine.prediction import Prediction

MARGIN = 20
_ROW = 26  # height of a probability bar
_TOP_CLASSES = 3

Rgb = tuple[int, int, int]
PAPER, INK, FAINT = (255, 255, 255), (24, 24, 27), (95, 95, 104)
_RULE = (222, 222, 228)
_BAR, _OTHER_BAR = (0, 90, 160), (160, 174, 190)
_ALERT = (176, 58, 0)


def header(prediction: "Prediction", width: int) -> Image.Image:
    """The label and the focus on the left, the most probable classes as bars on the right."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:_TOP_CLASSES]
    header = Image.new("RGB", (width, max(88, _ROW * len(ranked) + 10)), PAPER)
    pen = ImageDraw.Draw(header)
    half = width // 2 - MARGIN
    write(pen, (0, 0), prediction.label or "", 30, INK, half)
    if prediction.focused:
        score = "" if prediction.focus_score is None else f", score {prediction.focus_score:.2f}"
        write(pen, (0, 40), f"Focused on a region{score}", 16, INK, half)
    else:
        write(pen, (0, 40), "Not focused: classified from the whole image", 16, _ALERT, half)
    write(pen, (0, 66), prediction.source, 13, FAINT, half, keep_end=True)
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
    write(pen, at, name, 15, INK, names)
    pen.rectangle((start, top + 2, start + length, top + 15), fill=(238, 240, 243))
    if round(length * probability):
        pen.rectangle((start, top + 2, start + round(length * probability), top + 15), fill=colour)
    font = ImageFont.load_default(15)
    pen.text((left + width, top), f"{probability:.1%}", INK, font, anchor="ra")


def write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: Rgb,
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
