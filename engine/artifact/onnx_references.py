"""The files that an ONNX graph refers to, found without the `onnx` package.

A runtime opens whatever file a tensor of the graph names. Only the few fields that lead to such a
name are followed, by their numbers in onnx.proto (https://onnx.ai/onnx/repo-docs/IR.html).
"""

from collections.abc import Iterator

# Messages by name: their fields that are followed, by number, and the message that each holds.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external_data"},
}
_DEEPEST = 100  # levels of messages; protobuf's own limit
_VARINT, _I64, _LENGTH, _I32 = (
    0,
    1,
    2,
    5,
)  # wire types, https://protobuf.dev/programming-guides/encoding


def external_files(model: bytes) -> set[str]:
    """The names of files that hold a graph's tensors, as they are written in it.

    Args:
        model: the content of an .onnx file.

    Raises:
        ValueError: it is no protobuf message.
    """
    return set(_locations(memoryview(model), "model", 0))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("messages are nested too deeply")
    if kind == "external_data":
        entry = dict(_parts(message))
        if bytes(entry.get(1, b"")) == b"location":
            yield bytes(entry.get(2, b"")).decode()
        return
    for number, content in _parts(message):
        if inner := _FIELDS[kind].get(number):
            yield from _locations(content, inner, depth + 1)


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have a length, by number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag >= 2**32:  # some readers drop the higher bits, and would see another field
            raise ValueError("a tag is too large")
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
            continue
        if wire == _LENGTH:
            length, at = _varint(message, at)
        elif wire in (_I64, _I32):
            length = 8 if wire == _I64 else 4
        else:  # groups, which ONNX does not have
            raise ValueError("an unknown type of field")
        if at + length > len(message):
            raise ValueError("a field is longer than its message")
        if wire == _LENGTH:
            yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is cut off")
