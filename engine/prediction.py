"""The prediction for one image, with its evidence: the region that steered it."""

import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine.evidence.mask import mask_at
from medfocus.engine.io.images import ImageSource
from medfocus.engine.io.notices import Notice
from medfocus.errors import InputError, MedfocusError
from medfocus.files.atomic_write import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image.

    Attributes:
        source: the file or name that the image came from, with "#frame" if it holds several.
        label: the most probable class; None if there is an error.
        probabilities: softmax over the classes, by name, in the engine's order; read-only.
        focused: whether a region steered the classifier; False means that plain CLIP was used.
        focus_score: predicted IoU × stability of the focus mask, in [0, 1].
        focus_logits: float32 (h, w), the focus mask in SAM2's square frame, over the whole image;
            None if the engine does not segment, or with `keep_masks=False`.
        image_size: height and width of the image in pixels.
        patch_focus: float32 (g, g) in [0, 1], the focus mask's mean over each CLIP patch; None
            where `focus_logits` is.
        warnings: how the image was altered when it was read: sentences, each with its `code`.
        error: why there is no prediction.
        embedding: float32 (E,), as `Engine.encode_image` gives it; only with `embeddings=True`.
    """

    source: str
    label: str | None
    probabilities: Mapping[str, float]
    focused: bool
    focus_score: float | None
    focus_logits: NDArray[np.float32] | None
    image_size: tuple[int, int] | None
    patch_focus: NDArray[np.float32] | None
    warnings: tuple[Notice, ...] = ()
    error: MedfocusError | None = None
    embedding: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        read_only = MappingProxyType(dict(self.probabilities))
        object.__setattr__(self, "probabilities", read_only)

    def __reduce__(self) -> tuple[type["Prediction"], tuple[Any, ...]]:
        # A mapping proxy cannot be pickled, and predictions cross processes.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Prediction, tuple((values | {"probabilities": dict(self.probabilities)}).values())

    @property
    def probability(self) -> float | None:
        """The probability of `label`; None if there is an error."""
        return None if self.label is None else self.probabilities[self.label]

    @property
    def focus_mask(self) -> NDArray[np.bool_] | None:
        """Focus mask, bool (H, W) in the original image's frame; computed on every access."""
        if self.focus_logits is None or self.image_size is None:
            return None
        return mask_at(self.focus_logits, *self.image_size)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return [(name, float(value)) for name, value in ranked[:k]]

    def save_mask(self, path: str | os.PathLike[str]) -> None:
        """Write the focus mask in the original image's frame: a PNG, or with `.npy` for NumPy.

        Args:
            path: `.png` for black and white (0 and 255), `.npy` for bool (H, W).

        Raises:
            InputError: there is no mask, or the suffix is another.
            FileError: it cannot be written.
        """
        mask, suffix = self.focus_mask, Path(path).suffix.lower()
        if mask is None:
            problem, hint = "has no focus mask", "save only those that have `focus_logits`"
            raise InputError(self.source, problem, hint)
        content = io.BytesIO()
        if suffix == ".png":
            Image.fromarray(mask).save(content, "PNG")
        elif suffix == ".npy":
            np.save(content, mask)
        else:
            problem, hint = "ends neither in .png nor in .npy", "choose one of them"
            raise InputError(os.fspath(path), problem, hint, code="input.output_format")
        atomic_write(Path(path), content.getvalue())

    def plot(self, image: ImageSource | None = None, *, ax: "Axes | None" = None) -> "Axes":
        """Draw the image with its focus mask outlined, below the label, with matplotlib.

        Args:
            image: the image of this prediction, in any form that `Engine.classify` takes; by
                default the file that `source` names is read again.
            ax: where to draw; a new figure by default.

        Returns:
            The matplotlib Axes, for further drawing, or for `ax.figure.savefig`.

        Raises:
            InputError: the prediction is an error, no file has its image, the image given has
                another size, or matplotlib is missing (`input.package_missing`).
            ImageError: the image cannot be read.
        """
        from medfocus.engine.evidence.plot import plot  # matplotlib is optional

        return plot(self, image, ax)

    def _repr_png_(self) -> bytes | None:
        """In a notebook: label, probabilities, focus mask and patch focus; None if it is an error.

        Without the image, for it is not part of the prediction: to read a file, that may be slow,
        gone or another by now, is nothing that showing a value should do. `plot` does it.
        """
        from medfocus.engine.evidence.overlay import draw_without_image

        if self.label is None:
            return None
        content = io.BytesIO()
        try:
            draw_without_image(self).save(content, "PNG")
        except Exception:  # whatever it holds: a notebook then shows its text
            return None
        return content.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The prediction without its arrays, as plain JSON types, for result files."""
        return {
            "source": self.source,
            "label": self.label,
            "probabilities": {name: float(value) for name, value in self.probabilities.items()},
            "focused": bool(self.focused),
            "focus_score": None if self.focus_score is None else float(self.focus_score),
            "warnings": [str(notice) for notice in self.warnings],
            "warning_codes": [notice.code for notice in self.warnings],
            "error": None if self.error is None else str(self.error),
        }

    def to_json(self) -> dict[str, Any]:
        """Deprecated since 0.2.0: the former name of `to_dict`."""
        warnings.warn("use Prediction.to_dict", DeprecationWarning, stacklevel=2)
        return self.to_dict()


def failed_prediction(source: str, error: MedfocusError) -> Prediction:
    """The prediction for an image that cannot be answered."""
    return Prediction(source, None, {}, False, None, None, None, None, (), error)
