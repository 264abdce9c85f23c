"""Inference over gRPC: a request's tensors, and the tensors of its answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.serving.errors import RequestError
from medfocus.serving.open_inference.inputs import InferRequest, infer_request, refuse_not_served
from medfocus.serving.open_inference.messages import CLASSES
from medfocus.serving.open_inference.tensors import (
    NUMPY_TYPES,
    Tensor,
    check_count,
    fitted,
    from_raw,
    input_type,
    refused,
    to_raw,
)

# Where an element of each datatype is, if it is not in the raw contents.
_CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "BOOL": "bool_contents",
}


def request_of(message: Any, images: int) -> InferRequest:
    """A request from its message.

    Args:
        message: ModelInferRequest.
        images: most in one request.

    Raises:
        RequestError: it is malformed.
    """
    raw = message.raw_input_contents
    if len(raw) not in (0, len(message.inputs)):
        hint = "send all tensors as raw contents, or none"
        raise RequestError("raw_input_contents", "are not one per input", hint)
    tensors = [
        _tensor(each, raw[number] if raw else None, images)
        for number, each in enumerate(message.inputs)
    ]
    for output in message.outputs:
        refuse_not_served(output.name, output.parameters)
    names = [output.name for output in message.outputs]
    parameters = {name: _value(each) for name, each in message.parameters.items()}
    return infer_request(message.id, tensors, names, parameters)


def response_of(name: str, version: str, id_: str, tensors: Sequence[Tensor], raw: bool) -> Any:
    """The message of an answer: ModelInferResponse, with raw contents if the request has them."""
    answer = CLASSES["ModelInferResponse"](model_name=name, model_version=version, id=id_)
    for tensor in tensors:
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(to_raw(tensor))
        else:
            values = tensor.values
            elements = values.ravel().tolist() if isinstance(values, np.ndarray) else values
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(elements)
    return answer


def _tensor(given: Any, raw: bytes | None, images: int) -> Tensor:
    datatype = input_type(given.name, given.datatype, given.shape, images)
    refuse_not_served(given.name, given.parameters)
    if raw is not None:
        if given.HasField("contents"):
            raise refused(given.name, "has contents twice", "leave out contents, or the raw ones")
        return from_raw(given.name, datatype, given.shape, raw)
    elements = getattr(given.contents, _CONTENTS[datatype])
    check_count(given.name, given.shape, len(elements))  # before they are copied
    if datatype == "BYTES":
        return fitted(given.name, datatype, given.shape, list(elements))
    kind = np.uint32 if datatype == "UINT8" else np.float32
    values: NDArray[Any] = np.fromiter(elements, kind, len(elements))
    if datatype == "UINT8" and (values > 255).any():
        raise refused(given.name, "has elements that are no UINT8", "send numbers from 0 to 255")
    return fitted(given.name, datatype, given.shape, values.astype(NUMPY_TYPES[datatype]))


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(parameter, chosen)
