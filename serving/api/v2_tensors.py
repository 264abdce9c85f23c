"""Tensors of the Open Inference Protocol: JSON lists, or raw bytes after the JSON.

The protocol: kserve/open-inference-protocol, specification/protocol/inference_rest.md; its binary
tensor data extension: triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.serving.problems import RequestError

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("<u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
BINARY_SIZE = "binary_data_size"
HEADER_LENGTH = "inference-header-content-length"


def read_tensor(described: Mapping[str, Any], tail: memoryview) -> tuple[NDArray[Any], memoryview]:
    """One input of a request, and what is left of the bytes after its JSON.

    Args:
        described: the input's JSON: name, datatype, shape, and data or its size in `tail`.
        tail: the bytes of this and all later inputs.

    Raises:
        RequestError: an unknown datatype, or data that do not fill the shape.
    """
    name, shape = f"input {described['name']}"[:80], described["shape"]
    dtype = DATATYPES.get(described["datatype"])
    if dtype is None:
        raise _malformed(name, f"is of another datatype than {', '.join(DATATYPES)}")
    size = described.get("parameters", {}).get(BINARY_SIZE)
    if size is None:
        values = _from_lists(name, described.get("data"), dtype)
    elif size > len(tail):
        raise _malformed(name, "is longer than the request")
    else:
        values, tail = raw(name, tail[:size], dtype), tail[size:]
    if values.size != prod(shape):
        raise _malformed(name, f"has {values.size} elements for shape {shape}")
    return values.reshape(shape), tail


def raw(name: str, data: memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements in raw bytes, row by row; of BYTES each after its length.

    Raises:
        RequestError: bytes that are no whole elements.
    """
    if dtype != object:
        if len(data) % dtype.itemsize:
            raise _malformed(name, "has bytes that are no whole elements")
        return np.frombuffer(data, dtype)
    found, place = [], 0
    while place < len(data):
        end = place + 4
        length = int.from_bytes(data[place:end], "little")
        if end > len(data) or end + length > len(data):
            raise _malformed(name, "has an element that is longer than its data")
        found.append(bytes(data[end : end + length]))
        place = end + length
    return _objects(found)


def to_raw(tensor: NDArray[Any]) -> bytes:
    """The counterpart of `raw`."""
    if tensor.dtype != object:
        return tensor.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in tensor.ravel())


def described(name: str, tensor: NDArray[Any]) -> dict[str, Any]:
    """An output's JSON without its data."""
    kind = next(kind for kind, dtype in DATATYPES.items() if dtype == tensor.dtype)
    return {"name": name, "datatype": kind, "shape": list(tensor.shape)}


def to_lists(tensor: NDArray[Any]) -> list[Any]:
    """An output's data for JSON; those of BYTES must be UTF-8."""
    if tensor.dtype == object:
        return [item.decode() for item in tensor.ravel()]
    # float32 as the shortest text that is the same float32 again, as Prediction.to_dict has it
    values: list[Any] = tensor.ravel().tolist()
    return values


def _from_lists(name: str, data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    flat = [*_flat(data)]
    if dtype == object:
        if not all(isinstance(item, str) for item in flat):
            raise _malformed(name, "has data that are no strings")
        return _objects([item.encode() for item in flat])
    if not all(isinstance(item, bool | int | float) for item in flat):
        raise _malformed(name, "has data that are no numbers")
    try:
        return np.array(flat, dtype)
    except (OverflowError, ValueError):
        raise _malformed(name, f"has numbers that {dtype} cannot hold") from None


def _flat(data: Any) -> Sequence[Any]:
    """Nested lists as one."""
    if not isinstance(data, list):
        return [data]
    return [item for part in data for item in _flat(part)]


def _objects(items: Sequence[bytes]) -> NDArray[Any]:
    found = np.empty(len(items), object)
    found[:] = items
    return found


def _malformed(item: str, problem: str) -> RequestError:
    hint = "see the Open Inference Protocol, and the model's metadata"
    return RequestError(item, problem, hint)
