"""The walk through an .onnx file, compared with what the `onnx` package reads."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from medfocus.engine.artifact.onnx_references import external_files
from tests.conftest import OnnxFile


def external(name: str, location: str) -> TensorProto:
    """A tensor whose data is in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(location: str) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    return helper.make_sparse_tensor(external("values", location), indices, [8])


def everywhere() -> onnx.ModelProto:
    """A model with a tensor in another file at each place where ONNX allows a tensor."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["a"], value=external("t", "in a subgraph"))],
        "inner",
        [],
        [],
        initializer=[external("w", "in a subgraph's weights")],
    )
    body = helper.make_node("Constant", [], ["c"], value=external("t", "in a function"))
    default = helper.make_attribute("default", external("t", "in a default"))
    function = helper.make_function("own", "f", [], ["c"], [body], [])
    function.attribute_proto.append(default)
    nodes = [
        helper.make_node("Constant", [], ["d"], value=external("t", "in a node")),
        helper.make_node("Constant", [], ["e"], sparse_value=sparse("in a sparse value")),
        helper.make_node("If", ["x"], ["f"], then_branch=inner, else_branch=inner),
        helper.make_node("Own", [], ["g"], domain="own", many=[external("t", "in a list")]),
        helper.make_node("Own", [], ["h"], domain="own", graphs=[inner, inner]),
    ]
    graph = helper.make_graph(
        nodes,
        "outer",
        [],
        [],
        initializer=[external("w", "in the weights"), numpy_helper.from_array(np.ones(3), "n")],
        sparse_initializer=[sparse("in sparse weights")],
    )
    model = helper.make_model(graph, functions=[function])
    training = model.training_info.add()
    training.algorithm.initializer.append(external("w", "in training"))
    training.initialization.initializer.append(external("w", "in initialisation"))
    return model


def tensors(message: Message) -> Iterator[TensorProto]:
    """All tensors in a message, by protobuf's own reflection."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (
                value if isinstance(value, (list, tuple)) or hasattr(value, "add") else [value]
            ):
                yield from tensors(inner)


def locations(model: onnx.ModelProto) -> set[str]:
    entries = (entry for tensor in tensors(model) for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def test_files_are_found_wherever_a_tensor_may_be() -> None:
    model = everywhere()
    expected = locations(model)
    assert len(expected) == 11
    assert external_files(model.SerializeToString()) == expected


@pytest.mark.parametrize("graph", [("segmenter", "best"), ("classifier", "soft")])
def test_an_exported_graph_refers_to_its_weights_only(
    graph: tuple[str, str], onnx_file: OnnxFile
) -> None:
    path: Path = onnx_file(*graph)
    assert external_files(path.read_bytes()) == {f"{path.name}.data"}


SMALL = everywhere().SerializeToString()


def field(tag: int, content: bytes) -> bytes:
    """A field of a message that has a length, as protobuf writes it."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    head = [number >> shift & 0x7F | 0x80 for shift in range(0, number.bit_length() - 7, 7)]
    return bytes([*head, number >> 7 * len(head)])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4))
def test_no_changed_byte_hides_a_file_that_protobuf_still_sees(
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(SMALL)
    for place, value in changes:
        data[place] = value
    try:
        expected = locations(onnx.load_from_string(bytes(data)))
    except (DecodeError, UnicodeDecodeError):
        return  # no runtime reads it either
    with suppress(ValueError):  # refused: safe
        assert external_files(bytes(data)) >= expected


@pytest.mark.parametrize("data", [b"no graph", SMALL[:-1], b"\x3a\xff", b"\xff" * 11])
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them
        external_files(data)


def test_a_field_that_some_readers_take_for_another_is_refused() -> None:
    """A reader that keeps 32 bits of a tag sees field 7, the graph."""
    graph = everywhere().graph.SerializeToString()
    assert external_files(field(7, graph))
    with pytest.raises(ValueError, match="too large"):
        external_files(field(7 + 2**29, graph))


def test_endless_nesting_is_refused() -> None:
    graph = b""
    for _ in range(200):  # a graph in an attribute of a node of a graph …
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ValueError, match="nested"):
        external_files(field(7, graph))
