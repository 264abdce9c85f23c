"""Distractors: burnt-in labels, rulers, leads, clips and catheters.

They are drawn whether or not there is a lesion, and never over one.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from medfocus.phantoms.lesions import REACH, Site

_OVERSAMPLING = 2  # the drawing library has no soft edges of its own
_ATTEMPTS = 4
_LETTERS = "ABCDEFGHKLMNPRSTUVXYZ"
_INKS = ((255, 255, 255), (230, 230, 230), (245, 225, 90), (120, 220, 235), (130, 235, 130))

_Draw = Callable[[np.random.Generator, ImageDraw.ImageDraw, int], None]


@lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _side_marker(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    """An L or R near an upper corner, sometimes in a circle."""
    height = int(side * rng.uniform(0.06, 0.1))
    x = side * (rng.uniform(0.02, 0.1) if rng.random() < 0.5 else rng.uniform(0.84, 0.92))
    y = side * rng.uniform(0.02, 0.2)
    pen.text((x, y), "LR"[rng.integers(2)], fill=255, font=_font(height))
    if rng.random() < 0.3:
        pen.ellipse((x - height * 0.4, y, x + height, y + height * 1.4), outline=255, width=2)


def _text_lines(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    """One to four lines of letters and digits in a corner."""
    height = int(side * rng.uniform(0.035, 0.055))
    lines = []
    for _ in range(rng.integers(1, 5)):
        letters = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(1, 4)))
        lines.append(f"{letters} {rng.integers(1000)}{rng.choice(['', '.5', ' mm', ' cm', '%'])}")
    text = "\n".join(lines)
    box = pen.multiline_textbbox((0, 0), text, font=_font(height))
    x = float((side - box[2]) * rng.integers(2))
    y = float((side - box[3]) * rng.integers(2))
    inset = side * 0.015
    x = min(max(x, inset), side - box[2] - inset)
    y = min(max(y, inset), side - box[3] - inset)
    pen.multiline_text((x, y), text, fill=255, font=_font(height))


def _ruler(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    """A scale along the left or right border."""
    at_left = rng.random() < 0.5
    x = side * (0.02 if at_left else 0.98)
    inwards = 1 if at_left else -1
    spacing = side * rng.uniform(0.035, 0.06)
    start = side * rng.uniform(0.1, 0.3)
    for tick in range(int(rng.integers(8, 15))):
        y = start + tick * spacing
        length = side * (0.035 if tick % 5 == 0 else 0.018)
        pen.line((x, y, x + inwards * length, y), fill=255, width=2)


def _lead(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    """A wire or catheter from a border into the image, sometimes ending in an electrode disc."""
    angle = rng.uniform(0, 2 * math.pi)
    start = (0.5 + 0.75 * math.cos(angle), 0.5 + 0.75 * math.sin(angle))
    control, end = rng.uniform(0.1, 0.9, 2), rng.uniform(0.15, 0.85, 2)
    t = np.linspace(0, 1, 40)[:, None]
    curve = (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * control + t * t * end
    points = [(float(x), float(y)) for x, y in curve * side]
    pen.line(points, fill=200, width=max(2, int(side * rng.uniform(0.004, 0.012))), joint="curve")
    if rng.random() < 0.5:
        x, y = points[-1]
        disc, hole = side * rng.uniform(0.018, 0.03), side * 0.008
        pen.ellipse((x - disc, y - disc, x + disc, y + disc), fill=190)
        pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=250)


def _clips(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    """A few short, bright surgical clips close together."""
    centre = rng.uniform(0.2, 0.8, 2)
    for _ in range(rng.integers(1, 5)):
        x, y = (centre + rng.uniform(-0.08, 0.08, 2)) * side
        angle, length = rng.uniform(0, math.pi), side * rng.uniform(0.012, 0.022)
        dx, dy = length * math.cos(angle), length * math.sin(angle)
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=250, width=max(2, int(side * 0.009)))


# (distractor, probability) by organ; devices are about as common as in practice.
_COMMON: tuple[tuple[_Draw, float], ...] = ((_side_marker, 0.4), (_text_lines, 0.4), (_ruler, 0.3))
_BY_ORGAN: dict[str, tuple[tuple[_Draw, float], ...]] = {
    "brain": (*_COMMON, (_clips, 0.15), (_lead, 0.12)),
    "lung": (*_COMMON, (_lead, 0.45), (_lead, 0.25), (_clips, 0.2)),
    "breast": (*_COMMON, (_ruler, 0.3), (_clips, 0.2), (_lead, 0.1)),
}


def add_distractors(
    rng: np.random.Generator, image: npt.NDArray[np.uint8], organ: str, sites: list[Site]
) -> npt.NDArray[np.uint8]:
    """Draw labels and devices over a copy of the image (H, W, 3), away from every lesion site."""
    size = image.shape[0]
    kept_clear = _discs(size, sites)
    pasted = Image.fromarray(image)
    for draw, chance in _BY_ORGAN[organ]:
        if rng.random() >= chance:
            continue
        ink = _INKS[0 if draw in (_lead, _clips) else rng.integers(len(_INKS))]
        for _ in range(_ATTEMPTS):
            layer = Image.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
            draw(rng, ImageDraw.Draw(layer), size * _OVERSAMPLING)
            layer = layer.reduce(_OVERSAMPLING)
            if not (np.asarray(layer, dtype=np.bool_) & kept_clear).any():
                pasted.paste(ink, mask=layer)
                break
    return np.array(pasted)


def _discs(size: int, sites: list[Site]) -> npt.NDArray[np.bool_]:
    """The area that the lesions and their haze may cover, bool (H, W)."""
    rows, columns = np.ogrid[:size, :size]
    covered = np.zeros((size, size), np.bool_)
    for site in sites:
        reach = REACH * site.radius + 2
        covered |= (rows - site.row) ** 2 + (columns - site.column) ** 2 < reach * reach
    return covered
