"""The messages are those of the protocol's own definition, as NVIDIA's client has it compiled."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

from medfocus.serving.open_inference.messages import CLASSES, MESSAGES


def described(descriptor: Any) -> dict[str, Any]:
    """A message's fields and nested messages, without what is implied."""
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return {
        "name": proto.name,
        "fields": sorted(
            (
                field.number,
                field.name,
                field.type,
                field.label,
                field.type_name,
                field.HasField("oneof_index") and proto.oneof_decl[field.oneof_index].name,
            )
            for field in proto.field
        ),
        "entries": proto.options.map_entry,
        "nested": sorted(each.name for each in proto.nested_type),
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_has_the_protocols_fields(name: str) -> None:
    ours, theirs = CLASSES[name].DESCRIPTOR, service_pb2.DESCRIPTOR.pool.FindMessageTypeByName
    expected = theirs(f"inference.{name}")
    assert described(ours) == described(expected)
    for own, other in zip(
        sorted(ours.nested_types, key=lambda each: each.name),
        sorted(expected.nested_types, key=lambda each: each.name),
        strict=True,
    ):
        assert described(own) == described(other)


def test_both_definitions_can_be_in_one_process() -> None:
    request = service_pb2.ModelInferRequest(model_name="tiny", id="é")
    request.inputs.add(name="images", datatype="FP32", shape=[1, 2]).contents.fp32_contents[:] = [
        1.5,
        -2.0,
    ]
    request.parameters["timeout"].int64_param = 7
    content = request.SerializeToString(deterministic=True)
    ours = CLASSES["ModelInferRequest"].FromString(content)
    assert ours.SerializeToString(deterministic=True) == content
    assert type(ours) is not type(request)
