"""A caller's own prompt for one image, in the same form as the zero-shot prompts."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from medfocus.errors import InputError
from medfocus.settings import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Prompts

Box = Sequence[float]  # left, top, right, bottom in pixels of the source image
Points = Sequence[Sequence[float]]  # (x, y) or (x, y, label) in pixels of the source image
_Prompt = TypeVar("_Prompt")
# Of a file: one for each of its images, or for some of them by their number, from 0.
PerFrame: TypeAlias = _Prompt | Mapping[int, _Prompt]
MALFORMED = "input.prompt_malformed"
# Of one image: their attention delays all that share the engine.
MOST_POINTS = 1024
Corner = tuple[float, float, Literal[0, 1, 2, 3]]


def own_prompt(
    box: Box | None, points: Points | None, height: int, width: int, source: str
) -> Prompts:
    """A box and points, in pixels of an image, as one prompt; the box's corners come first.

    Args:
        box: left, top, right, bottom; or None.
        points: (x, y) or (x, y, label), label 1 for inside and 0 for outside; or None.
        height: of the image, pixels.
        width: of the image, pixels.
        source: of the image, in errors.

    Raises:
        InputError: neither is given, one is malformed or outside the image, or there are more
            than `MOST_POINTS`.
    """
    corners: list[Corner] = []
    if box is not None:
        left, top, right, bottom = _numbers(
            box, (4,), f"box of {source}", "left, top, right, bottom"
        )
        if not (left < right and top < bottom):
            hint = "give left < right and top < bottom, in pixels"
            raise InputError(f"box of {source}", "has no area", hint, code=MALFORMED)
        corners = [(left, top, BOX_TOP_LEFT), (right, bottom, BOX_BOTTOM_RIGHT)]
    if points is not None and len(points) > MOST_POINTS:
        problem, hint = f"are {len(points)}", f"give at most {MOST_POINTS}"
        raise InputError(f"points of {source}", problem, hint, code=MALFORMED)
    for point in () if points is None else points:
        x, y, *label = _numbers(point, (2, 3), f"point of {source}", "x, y or x, y, label")
        kind = label[0] if label else FOREGROUND
        if kind not in (BACKGROUND, FOREGROUND):
            problem, hint = f"has label {kind:g}", "use 1 for inside and 0 for outside"
            raise InputError(f"point of {source}", problem, hint, code=MALFORMED)
        corners.append((x, y, FOREGROUND if kind else BACKGROUND))
    if not corners:
        hint = "give at least one, or None"
        raise InputError(f"points of {source}", "are empty", hint, code=MALFORMED)
    places = tuple((x / width, y / height) for x, y, _ in corners)
    if not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places):
        raise InputError(
            f"prompt of {source}",
            f"is outside the image, which is {width} pixels wide and {height} high",
            "give pixels of the original image",
            code="input.prompt_outside_image",
        )
    return Prompts((places,), (tuple(label for *_, label in corners),))


def _numbers(
    values: Sequence[float], lengths: tuple[int, ...], item: str, form: str
) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in lengths or not np.isfinite(numbers).all():
        raise InputError(item, "is malformed", f"give {form} as finite numbers", code=MALFORMED)
    return numbers
