"""Bodies of inference over HTTP: JSON, then the tensors that are binary."""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from medfocus.serving.config import MOST_JSON_BYTES
from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.inputs import (
    InferRequest,
    infer_request,
    refuse_not_served,
)
from medfocus.serving.open_inference.tensors import (
    INPUTS,
    MOST_AXIS,
    NUMPY_TYPES,
    OUTPUTS,
    QUOTED,
    Datatype,
    Tensor,
    check_count,
    fitted,
    from_raw,
    input_type,
    refused,
    to_raw,
)

HEADER = "inference-header-content-length"
SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"

M = TypeVar("M", bound=BaseModel)
Parameters = dict[str, bool | int | float | str]
_ELEMENTS: dict[str, set[type]] = {
    "UINT8": {int},
    "FP32": {int, float, type(None)},
}  # types in JSON
Axis = Annotated[int, Field(ge=0, le=MOST_AXIS)]


class InputTensor(BaseModel):
    """A tensor of a request; `data` is left out where it is binary."""

    name: str
    datatype: str
    shape: list[Axis] = Field(max_length=8)
    parameters: Parameters = {}
    data: list[Any] | None = None


class OutputTensor(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: Parameters = {}


class Body(BaseModel):
    """The JSON of a request."""

    id: str = ""
    parameters: Parameters = {}
    inputs: list[InputTensor] = Field(max_length=len(INPUTS))
    outputs: list[OutputTensor] = Field(default=[], max_length=len(OUTPUTS))

    @property
    def binary(self) -> set[str]:
        """Names of the outputs that are to be binary."""
        wanted = bool(self.parameters.get(ALL_BINARY, False))
        if not self.outputs:
            return set(OUTPUTS) if wanted else set()
        return {each.name for each in self.outputs if each.parameters.get(BINARY, wanted)}


def parsed(
    content: bytes | bytearray, json_bytes: str | None, images: int
) -> tuple[Body, InferRequest]:
    """A request from its body.

    Args:
        content: the body.
        json_bytes: the header `HEADER`: how many of the body's bytes are JSON; None for all.
        images: most in one request.

    Raises:
        RequestError: it is malformed (`serve.request`), or has too much JSON
            (`serve.body_too_large`).
    """
    size = len(content) if json_bytes is None else _size(json_bytes)
    if size > len(content):
        raise RequestError(HEADER, "is larger than the body", "send the size of the JSON")
    if size > MOST_JSON_BYTES:
        problem, hint = f"is larger than {MOST_JSON_BYTES} bytes", "send images as binary tensors"
        raise RequestError("JSON", problem, hint, code="serve.body_too_large")
    view = memoryview(content)
    body = validated(Body, bytes(view[:size]))
    tensors, rest = [], view[size:]
    for each in body.inputs:
        tensor, rest = _tensor(each, rest, images)
        tensors.append(tensor)
    if len(rest):
        raise RequestError("body", "is longer than its tensors", f"check each {SIZE}")
    for output in body.outputs:
        refuse_not_served(output.name, output.parameters)
    names = [output.name for output in body.outputs]
    return body, infer_request(body.id, tensors, names, body.parameters)


def validated(model: type[M], content: bytes | bytearray) -> M:
    """JSON as a model says it must be.

    Raises:
        RequestError: it is not (`serve.request`); values are not quoted.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:QUOTED] or "body"
        problem = f"is malformed ({first['type']})"
        raise RequestError(place, problem, "see docs/serving.md for its form") from None


def encoded(
    name: str, version: str, id_: str, tensors: Sequence[Tensor], binary: set[str]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are JSON; None for all."""
    outputs, parts = [], []
    for tensor in tensors:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if tensor.name in binary:
            parts.append(to_raw(tensor))
            output["parameters"] = {SIZE: len(parts[-1])}
        else:
            output["data"] = _plain(tensor)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    answer |= ({"id": id_} if id_ else {}) | {"outputs": outputs}
    text = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([text, *parts]), len(text) if parts else None


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestError(HEADER, "is no number of bytes", "send the size of the JSON")
    return int(text)


def _tensor(given: InputTensor, rest: memoryview, images: int) -> tuple[Tensor, memoryview]:
    """A tensor, and what of the binary data follows it."""
    datatype = input_type(given.name, given.datatype, given.shape, images)
    refuse_not_served(given.name, given.parameters)
    size = given.parameters.get(SIZE)
    if size is None:
        return _from_json(given, datatype), rest
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise refused(given.name, f"has a {SIZE} that does not fit the body", "send its bytes")
    if given.data is not None:
        raise refused(given.name, "has data twice", f"leave out data or {SIZE}")
    return from_raw(given.name, datatype, given.shape, rest[:size]), rest[size:]


def _from_json(given: InputTensor, datatype: Datatype) -> Tensor:
    """A tensor from JSON: its elements nested as its shape is, or in a row.

    Elements of BYTES are in base64, null in numbers is NaN.
    """
    name, data, shape = given.name, given.data, tuple(given.shape)
    if data is None:
        raise refused(name, "has no data", f"send data, or binary data and {SIZE}")
    if datatype == "BYTES":
        check_count(name, shape, len(data))
        return fitted(name, datatype, shape, [_decoded(name, each) for each in data])
    check_count(name, shape, _count(name, data, datatype))
    values = _numbers(name, data, datatype)
    if values.ndim > 1 and values.shape != shape:
        raise refused(name, "is nested otherwise than its shape", "nest it so, or not at all")
    return fitted(name, datatype, shape, values.ravel())


def _decoded(name: str, element: Any) -> bytes:
    try:
        return base64.b64decode(element, validate=True)
    except (TypeError, ValueError, binascii.Error):
        hint = "send whole files in base64, or as binary data"
        raise refused(name, "has an element that is no base64", hint) from None


def _count(name: str, data: list[Any], datatype: Datatype) -> int:
    """How many numbers there are, in rows of rows: NumPy would make room for what is none.

    A text among numbers would make texts of that length of all of them.
    """
    count, rows = 0, [data]
    while rows:
        row = rows.pop()
        kinds = set(map(type, row))
        if kinds == {list}:
            rows.extend(row)
        elif kinds <= _ELEMENTS[datatype]:
            count += len(row)
        else:
            raise _no_numbers(name, datatype)
    return count


def _numbers(name: str, data: list[Any], datatype: Datatype) -> NDArray[Any]:
    """An array of what `_count` has counted."""
    try:
        found = np.array(data, np.float64)
    except (ValueError, OverflowError):  # rows of different lengths; an integer of 400 digits
        raise _no_numbers(name, datatype) from None
    if datatype == "UINT8" and not ((found >= 0) & (found <= 255)).all():
        raise _no_numbers(name, datatype)
    with np.errstate(over="ignore"):
        return found.astype(NUMPY_TYPES[datatype])


def _no_numbers(name: str, datatype: Datatype) -> RequestError:
    problem = f"has elements that are no {datatype}, or rows of different lengths"
    return refused(name, problem, "send numbers of this datatype")


def _plain(tensor: Tensor) -> list[Any]:
    """In a row, as JSON has them: text, masks in base64, null for NaN."""
    if not isinstance(tensor.values, np.ndarray):
        if tensor.name == "mask":
            return [base64.b64encode(each).decode("ascii") for each in tensor.values]
        return [bytes(each).decode() for each in tensor.values]
    row = tensor.values.ravel()
    if tensor.datatype == "FP32":
        return [None if math.isnan(each) else each for each in row.tolist()]
    plain: list[Any] = row.tolist()
    return plain
