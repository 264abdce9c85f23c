"""What a request's tensors ask of the engine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfocus.engine.io.images import ImageSource
from medfocus.engine.preprocess.prompts import MOST_POINTS, Box, Points
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.tensors import OUTPUTS, QUOTED, Tensor, refused

# Parameters of a tensor that change where it is or what it means.
_NOT_SERVED = ("shared_memory_region", "classification")


@dataclass(frozen=True)
class InferRequest:
    """One request, whatever it came in.

    Attributes:
        id: the client's own, sent back.
        images: whole files, or pixels: uint8 (H, W) or (H, W, 3).
        boxes, points: per image, see `Engine.classify`.
        outputs: names of the tensors to answer with.
        seconds: within which it wants to be answered; None if it does not say.
    """

    id: str
    images: Sequence[ImageSource]
    boxes: Sequence[Box | None] | None
    points: Sequence[Points | None] | None
    outputs: Sequence[str]
    seconds: float | None


def infer_request(
    id_: str, tensors: Sequence[Tensor], outputs: Sequence[str], parameters: Mapping[str, Any]
) -> InferRequest:
    """A request from its tensors.

    Args:
        id_: the client's own.
        tensors: of names, datatypes and shapes that they may have.
        outputs: names that are asked for; none for those that come unasked.
        parameters: of the request; `timeout` is in microseconds, as Triton's is.

    Raises:
        RequestError: a tensor that is missing or there twice, an unknown output, too many points,
            a timeout that is none.
    """
    found = {tensor.name: tensor for tensor in tensors}
    if "images" not in found or len(found) < len(tensors):
        raise refused("images", "is missing, or an input is there twice", "send each input once")
    for name in outputs:
        if name not in OUTPUTS or outputs.count(name) > 1:
            hint = f"ask for {', '.join(OUTPUTS)}, each once"
            raise refused(name[:QUOTED], "is no output, or asked for twice", hint)
    boxes, points = found.get("boxes"), found.get("points")
    if points is not None and points.shape[1] > MOST_POINTS:
        raise refused("points", f"has {points.shape[1]} per image", f"send at most {MOST_POINTS}")
    return InferRequest(
        id_,
        list(found["images"].values),
        None if boxes is None else [_box(row) for row in boxes.values],
        None if points is None else [_points(rows) for rows in points.values],
        outputs or [name for name, described in OUTPUTS.items() if described.always],
        _seconds(parameters.get("timeout")),
    )


def refuse_not_served(name: str, parameters: Iterable[str]) -> None:
    """Refuse a tensor's parameters that must not be ignored.

    Raises:
        RequestError: it is to be in shared memory, or classified by the service.
    """
    for parameter in _NOT_SERVED:
        if parameter in parameters:
            hint = f"leave out {parameter}"
            raise refused(name[:QUOTED], f"has the parameter {parameter}", hint)


def _box(row: Any) -> Box | None:
    """Of float32 (4,)."""
    box: list[float] = row.tolist()
    return None if np.isnan(row).all() else box


def _points(rows: Any) -> Points | None:
    """Of float32 (P, 3)."""
    points: list[list[float]] = rows[~np.isnan(rows).all(axis=1)].tolist()
    return points or None


def _seconds(timeout: Any) -> float | None:
    """Seconds of a timeout in microseconds; 0 is none, as in Triton."""
    if timeout is None:
        return None
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 <= timeout < 2**64:
        raise RequestError("timeout", "is not a number of microseconds", "send one above 0")
    return timeout / 1e6 or None
