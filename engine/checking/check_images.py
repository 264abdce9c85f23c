"""The check images of an engine directory: phantoms, and the float32 reference's answers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.files import directory_error
from medfocus.engine.artifact.layout import CHECK_IMAGES
from medfocus.engine.artifact.tensors import check_tensors
from medfocus.engine.preprocess.batch import MASK_STRIDE

# The file's tensors, one row per image: N images of H×W pixels, otherwise as in `CheckImage`.
_SHAPES = {
    "pixels": "NHW3",
    "focus_logits": "Nhh",
    "score": "N",
    "embedding": "NE",
    "probabilities": "NC",
    "patch_focus": "Ngg",
    "focused": "N",
}
_DTYPES = {"pixels": np.uint8, "focused": np.bool_}


@dataclass(frozen=True, eq=False)
class CheckImage:
    """An image, and what the float32 PyTorch model answers for it with the engine's own prompts.

    Attributes:
        pixels: uint8 (H, W, 3).
        focus_logits: float32 (h, w), the focus mask.
        score: float32 (), its score.
        embedding: float32 (E,).
        probabilities: float32 (C,).
        patch_focus: float32 (g, g).
        focused: bool ().
    """

    pixels: NDArray[np.uint8]
    focus_logits: NDArray[np.float32]
    score: NDArray[np.float32]
    embedding: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    patch_focus: NDArray[np.float32]
    focused: NDArray[np.bool_]


def to_bytes(images: Sequence[CheckImage]) -> bytes:
    """The content of the file of an engine directory; the images have one size."""
    return safetensors.numpy.save(
        {
            field.name: np.stack([np.asarray(getattr(image, field.name)) for image in images])
            for field in fields(CheckImage)
        }
    )


def read_check_images(directory: EngineDirectory) -> list[CheckImage]:
    """The check images of an engine directory, the clearest first; none if it was written without.

    Raises:
        EngineDirectoryError: their file has changed (`engine.changed`), or does not fit the
            manifest (`engine.tensors_invalid`).
    """
    if CHECK_IMAGES not in directory.manifest.files:
        return []
    tensors = load_tensors(directory, CHECK_IMAGES)
    preprocessing = directory.manifest.preprocessing
    sizes = {
        "3": 3,
        "h": preprocessing.segmenter.size // MASK_STRIDE,
        "g": preprocessing.classifier.patch_grid,
        "C": len(directory.manifest.classes),
    }
    check_tensors(directory.file(CHECK_IMAGES), tensors, _SHAPES, sizes, _DTYPES)
    if not tensors["pixels"].size:
        problem = "holds no image"
        raise directory_error(directory.file(CHECK_IMAGES), problem, code="engine.tensors_invalid")
    columns = (tensors[field.name] for field in fields(CheckImage))
    return [CheckImage(*row) for row in zip(*columns, strict=True)]
