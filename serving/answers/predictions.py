"""Predictions as JSON: what `Prediction.to_dict` holds, with masks and embeddings on request."""

import base64
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine import Prediction
from medfocus.serving.answers.outlines import outlines
from medfocus.serving.answers.run_length import run_lengths

MaskFormat = Literal["png", "rle", "polygon", "logits"]


def answer(prediction: Prediction, mask: MaskFormat | None, embedding: bool) -> dict[str, Any]:
    """One image's prediction as plain JSON types.

    Args:
        prediction: of the image.
        mask: how to add its focus mask: in the image's own frame as `png`, black and white in
            base64; `rle`, COCO's run lengths; `polygon`, a GeoJSON MultiPolygon; or as `logits`,
            the engine's own numbers, from which a client makes the same Prediction; None to leave
            it out.
        embedding: whether to add its embedding.
    """
    size = None if prediction.image_size is None else list(prediction.image_size)
    found = prediction.to_dict() | {"error": error_of(prediction), "image_size": size}
    if mask == "logits":
        found["mask"] = _logits(prediction)
    elif mask is not None:
        found["mask"] = _mask(prediction.focus_mask, mask)
    if embedding:
        found["embedding"] = None if prediction.embedding is None else prediction.embedding.tolist()
    return found


def error_of(prediction: Prediction) -> dict[str, str] | None:
    """Why there is no prediction: its item, problem, hint and code; None if there is one."""
    error = prediction.error
    if error is None:
        return None
    return {"code": error.code, "item": error.item, "problem": error.problem, "hint": error.hint}


def _logits(prediction: Prediction) -> dict[str, Any] | None:
    if prediction.focus_logits is None or prediction.patch_focus is None:
        return None
    return {
        "logits": _float32(prediction.focus_logits),
        "patch_focus": _float32(prediction.patch_focus),
    }


def _float32(values: NDArray[np.float32]) -> dict[str, Any]:
    data = base64.b64encode(values.astype("<f4").tobytes())  # little-endian, row by row
    return {"shape": list(values.shape), "float32": data.decode("ascii")}


def _mask(mask: NDArray[np.bool_] | None, form: MaskFormat) -> dict[str, Any] | None:
    if mask is None:
        return None
    size = {"size": list(mask.shape)}  # height, width, as in COCO
    if form == "rle":
        return size | {"counts": run_lengths(mask)}
    if form == "polygon":
        return size | {"polygon": outlines(mask)}
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    return size | {"png": base64.b64encode(content.getvalue()).decode("ascii")}
