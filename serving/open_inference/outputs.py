"""Predictions as the tensors of an answer."""

import io
import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfocus.engine import Prediction
from medfocus.serving.answers.predictions import answer
from medfocus.serving.inference import Answered
from medfocus.serving.open_inference.tensors import NUMPY_TYPES, OUTPUTS, Tensor


def output_tensors(answered: Answered, names: Sequence[str]) -> list[Tensor]:
    """The tensors that were asked for, in that order, with one entry per image (M).

    Where an image has none of something, there are NaN, False or nothing.
    """
    return [_tensor(name, answered) for name in names]


def _tensor(name: str, answered: Answered) -> Tensor:
    datatype = OUTPUTS[name].datatype
    if datatype == "BYTES":
        elements = [_BYTES[name](each) for each in answered.predictions]
        return Tensor(name, datatype, (len(elements),), elements)
    values = _NUMBERS[name](answered).astype(NUMPY_TYPES[datatype])
    return Tensor(name, datatype, values.shape, values)


def _probabilities(answered: Answered) -> NDArray[np.float64]:
    """(M, C)."""
    return np.array(
        [
            [each.probabilities.get(name, np.nan) for name in answered.classes]
            for each in answered.predictions
        ]
    ).reshape(len(answered.predictions), len(answered.classes))


def _embedding(answered: Answered) -> NDArray[np.float32]:
    """(M, E); E is 0 if no image could be read."""
    found = [each.embedding for each in answered.predictions]
    width = max((len(each) for each in found if each is not None), default=0)
    return np.array(
        [np.full(width, np.nan, np.float32) if each is None else each for each in found]
    ).reshape(len(found), width)


def _mask(prediction: Prediction) -> bytes:
    """A PNG, black and white, in the image's own frame; nothing without a mask."""
    mask = prediction.focus_mask
    if mask is None:
        return b""
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    return content.getvalue()


def _json(prediction: Prediction) -> bytes:
    """The bytes of the entry in `predictions` that our own interface answers with."""
    entry = answer(prediction, None, embedding=False)
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _score(prediction: Prediction) -> float:
    return np.nan if prediction.focus_score is None else prediction.focus_score


_BYTES: dict[str, Callable[[Prediction], bytes]] = {
    "label": lambda prediction: (prediction.label or "").encode(),
    "prediction": _json,
    "mask": _mask,
}
_NUMBERS: dict[str, Callable[[Answered], NDArray[np.generic]]] = {
    "probabilities": _probabilities,
    "embedding": _embedding,
    "focused": lambda answered: np.array([each.focused for each in answered.predictions]),
    "focus_score": lambda answered: np.array([_score(each) for each in answered.predictions]),
}
