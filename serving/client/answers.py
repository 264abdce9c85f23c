"""The service's answers as what the engine itself gives: predictions and errors."""

import base64
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.notices import Notice
from medfocus.engine.prediction import Prediction
from medfocus.errors import DeviceError, ImageError, InputError, MedfocusError, OutputError
from medfocus.serving.errors import BusyError, RequestError, ServiceError

# The class of an error by its code, or by the area that its code begins with.
_CLASSES: dict[str, type[MedfocusError]] = {
    "image": ImageError,
    "dicom": ImageError,
    "input": InputError,
    "device": DeviceError,
    "output": OutputError,
    "serve": RequestError,
    "engine.closed": InputError,
    "engine.forked": InputError,
    "serve.busy": BusyError,
    "serve.failed": ServiceError,
    "serve.not_ready": InputError,
    "serve.unexpected": ServiceError,
    "serve.unknown_engine": InputError,
}


class Answer(NamedTuple):
    """The answer to one request.

    Attributes:
        version: of the engine, see `ServedEngine`.
        predictions: of the images.
    """

    version: str
    predictions: list[Prediction]


def answer_of(content: bytes, url: str) -> Answer:
    """The answer in a response to `classify`, with masks as `logits`.

    Args:
        content: of the response.
        url: of the service, in errors.

    Raises:
        ServiceError: it is none (`serve.unexpected`).
    """
    try:
        answer = json.loads(content)
        predictions = [_prediction(each) for each in answer["predictions"]]
        return Answer(answer["engine"]["version"], predictions)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise unexpected(url) from None


def problem_of(content: bytes, status: int, url: str) -> MedfocusError:
    """The error that a response of `application/problem+json` tells of.

    Args:
        content: of the response.
        status: of the response.
        url: of the service, in errors.
    """
    try:
        problem = json.loads(content)
        texts = problem["detail"], problem["code"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return unexpected(url, f"answers with status {status}, and not as medfocus serve does")
    detail, code = map(str, texts)
    item = str(problem.get("item", url))
    hint = str(problem.get("hint", "see the log of the service"))
    return error_of({"code": code, "item": item, "problem": detail, "hint": hint})


def error_of(values: dict[str, str]) -> MedfocusError:
    """An error with its code, item, problem and hint, in the class that its code belongs to."""
    code = values["code"]
    kind = _CLASSES.get(code) or _CLASSES.get(code.partition(".")[0], MedfocusError)
    return kind(values["item"], values["problem"], values["hint"], code=code)


def unexpected(url: str, problem: str = "does not answer as medfocus serve does") -> ServiceError:
    """The error of an answer that cannot be understood."""
    hint = "check the address, and that the service is as new as this client"
    return ServiceError(url, problem, hint, code="serve.unexpected")


def _prediction(values: dict[str, Any]) -> Prediction:
    size, mask, embedding = values["image_size"], values.get("mask"), values.get("embedding")
    warnings = zip(values["warning_codes"], values["warnings"], strict=True)
    return Prediction(
        source=values["source"],
        label=values["label"],
        probabilities=values["probabilities"],
        focused=values["focused"],
        focus_score=values["focus_score"],
        focus_logits=None if mask is None else _float32(mask["logits"]),
        image_size=None if size is None else (size[0], size[1]),
        patch_focus=None if mask is None else _float32(mask["patch_focus"]),
        warnings=tuple(Notice(code, text) for code, text in warnings),
        error=None if values["error"] is None else error_of(values["error"]),
        embedding=None if embedding is None else np.array(embedding, np.float32),
    )


def _float32(values: dict[str, Any]) -> NDArray[np.float32]:
    data = bytearray(base64.b64decode(values["float32"], validate=True))
    return np.frombuffer(data, "<f4").reshape(values["shape"]).astype(np.float32, copy=False)
