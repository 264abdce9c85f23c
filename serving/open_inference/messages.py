"""The protocol's gRPC messages, as classes of protobuf, without generated code.

Names, numbers and types are those of open_inference_grpc.proto (kserve/open-inference-protocol),
with Triton's model repository (grpc_service.proto), and of grpc.health.v1. They are in a pool of
their own: a client's generated code for the same names can be in the same process.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
HEALTH = "grpc.health.v1"
ONE_OF = "parameter_choice"  # the only one there is, in two messages
_PARAMETERS = "map InferParameter"
_CHANGE = {
    "repository_name": (1, "string"),
    "model_name": (2, "string"),
    "parameters": (3, "map ModelRepositoryParameter"),
}
_VERSIONED = {"name": (1, "string"), "version": (2, "string")}
_TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")}
_WITH_CONTENTS = {**_TENSOR, "parameters": (4, _PARAMETERS), "contents": (5, "InferTensorContents")}

# Per message its fields: number, and type. "one" fields exclude one another.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _VERSIONED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_VERSIONED, "extensions": (3, "repeated string")},
    "ModelMetadataRequest": _VERSIONED,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": (1, "one bool"),
        "int64_param": (2, "one int64"),
        "string_param": (3, "one string"),
        "double_param": (4, "one double"),
        "uint64_param": (5, "one uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": _WITH_CONTENTS,
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, _PARAMETERS),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": _WITH_CONTENTS,
    "ModelRepositoryParameter": {
        "bool_param": (1, "one bool"),
        "int64_param": (2, "one int64"),
        "string_param": (3, "one string"),
        "bytes_param": (4, "one bytes"),
    },
    "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
    "RepositoryIndexResponse": {"models": (1, "repeated RepositoryIndexResponse.ModelIndex")},
    "RepositoryIndexResponse.ModelIndex": {
        **_VERSIONED,
        "state": (3, "string"),
        "reason": (4, "string"),
    },
    "RepositoryModelLoadRequest": _CHANGE,
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": _CHANGE,
    "RepositoryModelUnloadResponse": {},
}
HEALTH_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},  # an enumeration: the same on the wire
}

_Field = descriptor_pb2.FieldDescriptorProto


def _classes(package: str, messages: dict[str, dict[str, tuple[int, str]]]) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    found: dict[str, Any] = {}
    for name, fields in messages.items():  # a message before those within it
        outer, _, own = name.rpartition(".")
        found[name] = (found[outer].nested_type if outer else file.message_type).add(name=own)
        for field, (number, kind) in fields.items():
            _add(found[name], f".{package}.", name, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _add(message: Any, package: str, name: str, field: str, number: int, kind: str) -> None:
    how, _, of = kind.rpartition(" ")
    added = message.field.add(name=field, number=number)
    added.label = _Field.LABEL_REPEATED if how in ("repeated", "map") else _Field.LABEL_OPTIONAL
    if how == "map":  # as the language defines it: entries of key and value
        entry = message.nested_type.add(name=f"{field.title()}Entry")
        entry.options.map_entry = True
        _add(entry, package, name, "key", 1, "string")
        _add(entry, package, name, "value", 2, of)
        of = f"{name}.{entry.name}"
    if how == "one":
        if not message.oneof_decl:
            message.oneof_decl.add(name=ONE_OF)
        added.oneof_index = 0
    if of[0].isupper():
        added.type, added.type_name = _Field.TYPE_MESSAGE, package + of
    else:
        added.type = getattr(_Field, f"TYPE_{of.upper()}")


CLASSES = _classes(PACKAGE, MESSAGES)
HEALTH_CLASSES = _classes(HEALTH, HEALTH_MESSAGES)
