"""A prediction as a matplotlib plot: its image, and the outline of its focus mask."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfocus.engine.io.images import ImageSource, SourceImage, converted
from medfocus.engine.io.in_memory import InMemoryFile
from medfocus.engine.io.reading.reader import read_image
from medfocus.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from medfocus.engine.prediction import Prediction

_OUTLINE = "#00dcff"  # the mask's colour in `panels`
_FRAME = re.compile(r"(.+)#(\d{1,9})", re.DOTALL)


def plot(prediction: "Prediction", image: ImageSource | None, ax: "Axes | None") -> "Axes":
    """See `Prediction.plot`."""
    if prediction.label is None:
        hint = "plot only predictions that have a label"
        raise InputError(prediction.source, "has no label to plot", hint)
    shown = _image_of(prediction, image)
    if shown.pixels.shape[:2] != prediction.image_size:
        height, width = shown.pixels.shape[:2]
        problem = f"is {width} x {height} pixels large, which is not the size of the prediction's"
        raise InputError("image", problem, "give the image that was classified")
    ax = _new_axes() if ax is None else ax
    ax.imshow(shown.pixels, aspect=shown.pixel_aspect)
    _outline(prediction, ax)
    focus = "" if prediction.focused else "\nnot focused: classified from the whole image"
    ax.set_title(f"{prediction.label} {prediction.probability:.1%}{focus}", parse_math=False)
    ax.set_axis_off()
    return ax


def _outline(prediction: "Prediction", ax: "Axes") -> None:
    """The mask's border: where its logits, interpolated as `mask_at` does, are 0."""
    logits, size = prediction.focus_logits, prediction.image_size
    if logits is None or size is None or logits.max() <= 0:
        return
    # Samples beyond the image's edge, so that a region that is cut off there is closed.
    closed = np.pad(logits, 1, constant_values=min(float(logits.min()), -1.0))
    y, x = (
        np.clip((np.arange(-1, count + 1) + 0.5) * (length / count), 0, length) - 0.5
        for count, length in zip(logits.shape, size, strict=True)
    )
    for colour, width in (("black", 3.5), (_OUTLINE, 1.5)):  # visible on black and on white
        ax.contour(x, y, closed, levels=[0.0], colors=colour, linewidths=width)


def _image_of(prediction: "Prediction", image: ImageSource | None) -> SourceImage:
    match = _FRAME.fullmatch(prediction.source)
    name, frame = (prediction.source, 0) if match is None else (match[1], int(match[2]))
    if image is None:
        if Path(prediction.source).is_file():  # whose own name ends like a frame's
            name, frame = prediction.source, 0
        if not Path(name).is_file():
            problem, hint = "is no file that could be read again", "pass the image: plot(image)"
            raise InputError(prediction.source, problem, hint)
        image = name
    if isinstance(image, str | os.PathLike | InMemoryFile):
        return read_image(image, prediction.source, frame)
    return converted(image, prediction.source)


def _new_axes() -> "Axes":
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise InputError(
            "plot", "needs matplotlib", "pip install matplotlib", code="input.package_missing"
        ) from None
    return pyplot.subplots(layout="constrained")[1]
