"""The tensors of a request and of its answer, and their values as the protocol's raw bytes."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medfocus.serving.errors import RequestError

Datatype = Literal["BYTES", "UINT8", "FP32", "BOOL"]
NUMPY_TYPES: dict[str, str] = {"UINT8": "<u1", "FP32": "<f4", "BOOL": "|b1"}
Bytes = bytes | memoryview
# Numbers of elements, or the elements in row-major order where they are of any length.
Values = NDArray[Any] | Sequence[Bytes]
ANY = -1  # an axis of any length, in metadata
CLASSES = -2  # an axis of as many as the engine has classes
MOST_AXIS = 2**31
QUOTED = 64  # characters of a client's own names in errors


@dataclass(frozen=True)
class Described:
    """A tensor of the interface.

    Attributes:
        datatype: of its elements; `images` may also be UINT8.
        shape: of the tensor, with `ANY` and `CLASSES`.
        always: whether an answer has it if the request names no outputs.
    """

    datatype: Datatype
    shape: tuple[int, ...]
    always: bool = True


INPUTS = {
    "images": Described("BYTES", (ANY,)),  # whole files; or UINT8 [N,H,W] or [N,H,W,3], pixels
    "boxes": Described("FP32", (ANY, 4)),
    "points": Described("FP32", (ANY, ANY, 3)),
}
OUTPUTS = {
    "label": Described("BYTES", (ANY,)),
    "probabilities": Described("FP32", (ANY, CLASSES)),
    "focused": Described("BOOL", (ANY,)),
    "focus_score": Described("FP32", (ANY,)),
    "prediction": Described("BYTES", (ANY,)),
    "embedding": Described("FP32", (ANY, ANY), always=False),
    "mask": Described("BYTES", (ANY,), always=False),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor with its values.

    Attributes:
        name: of it.
        datatype: of its elements.
        shape: of it.
        values: an array of that shape, or for BYTES its elements.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    values: Values


def input_type(name: str, datatype: str, shape: Sequence[int], most: int) -> Datatype:
    """The datatype of an input, if that is one which it may have.

    Args:
        name: of the tensor.
        datatype: that a request says it has.
        shape: that a request says it has.
        most: images in one request.

    Raises:
        RequestError: an unknown tensor, another datatype or shape, or too many images.
    """
    described = INPUTS.get(name)
    if described is None:
        raise refused(name[:QUOTED], "is no input", f"use {', '.join(INPUTS)}")
    if name == "images" and datatype == "UINT8":
        found: Datatype = "UINT8"
        fits = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    else:
        found = described.datatype
        pairs = zip(shape, described.shape, strict=False)
        fits = len(shape) == len(described.shape) and all(w in (ANY, n) for n, w in pairs)
    if datatype != found or not fits or min(shape) < 0 or max(shape) > MOST_AXIS:
        hint = "see docs/serving.md for the inputs' datatypes and shapes"
        raise refused(name, "has another datatype or shape than it may have", hint)
    if shape[0] > most:
        raise refused(name, f"is of {shape[0]} images", f"send at most {most} per request")
    return found


def from_raw(name: str, datatype: Datatype, shape: Sequence[int], raw: Bytes) -> Tensor:
    """A tensor from raw bytes: little-endian and row-major; BYTES elements after their lengths.

    Raises:
        RequestError: the bytes are more or fewer than the shape has elements.
    """
    if datatype == "BYTES":
        return fitted(name, datatype, shape, _elements(name, shape[0], raw))
    kind = np.dtype(NUMPY_TYPES[datatype])
    if len(raw) % kind.itemsize:
        raise _mismatch(name)
    return fitted(name, datatype, shape, np.frombuffer(raw, kind))


def fitted(name: str, datatype: Datatype, shape: Sequence[int], values: Values) -> Tensor:
    """A tensor of values in a row.

    Raises:
        RequestError: they are more or fewer than its shape has elements.
    """
    check_count(name, shape, len(values))
    if isinstance(values, np.ndarray):
        try:
            values = values.reshape(shape)
        except ValueError:  # an axis of 0, and others whose product NumPy cannot hold
            raise _mismatch(name) from None
    return Tensor(name, datatype, tuple(shape), values)


def check_count(name: str, shape: Sequence[int], count: int) -> None:
    """Refuse another number of elements than a shape has.

    Raises:
        RequestError: there are more or fewer.
    """
    if count != math.prod(shape):
        raise _mismatch(name)


def to_raw(tensor: Tensor) -> bytes:
    """The values of a tensor as raw bytes, see `from_raw`."""
    if isinstance(tensor.values, np.ndarray):
        return tensor.values.astype(NUMPY_TYPES[tensor.datatype]).tobytes()
    return b"".join(part for each in tensor.values for part in (struct.pack("<I", len(each)), each))


def _elements(name: str, count: int, raw: Bytes) -> list[memoryview]:
    """As many elements as there must be; not those of a shape that is too small."""
    view, found = memoryview(raw), []
    for _ in range(count):
        if len(view) < 4:
            raise _mismatch(name)
        end = 4 + int.from_bytes(view[:4], "little")
        if end > len(view):
            raise _mismatch(name)
        found.append(view[4:end])
        view = view[end:]
    if len(view):
        raise _mismatch(name)
    return found


def _mismatch(name: str) -> RequestError:
    return refused(name, "has more or less data than its shape says", "send as many elements")


def refused(item: str, problem: str, hint: str) -> RequestError:
    """An error about a tensor of a request."""
    return RequestError(f"tensor {item}", problem, hint)
