"""Which ONNX operators the runtimes support, and which parts of a graph they do not.

TensorRT: docs/operators.md of github.com/onnx/onnx-tensorrt as of TensorRT 10.15 (opsets 9 to 24),
restricted to operators of image transformers. The parser of TensorRT 11 is documented to support
opsets up to 25; that release's table is not public. One entry goes beyond the table: `Clip`, which
it lists only for floats, supports INT32 and INT64 in the parser's source (since 10.1,
onnxOpImporters.cpp).

ONNX Runtime: the kernels registered for the CPU by onnxruntime 1.32.0 (`get_all_opkernel_def`),
with the same restriction.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_NUMBERS = (*_FLOATS, "INT32", "INT64")
_ANY = (*_NUMBERS, "BOOL")

# Operator -> the data types that TensorRT supports for it.
TENSORRT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("And", "Not", "Or", "Xor"), ("BOOL",)),
    **dict.fromkeys(
        (
            *("AveragePool", "BatchNormalization", "Ceil", "Conv", "ConvTranspose", "Cos"),
            *("CumSum", "Einsum", "Elu", "Erf", "Exp", "Floor", "Gemm", "GlobalAveragePool"),
            *("GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization", "IsInf"),
            *("LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "MaxPool"),
            *("PRelu", "RMSNormalization", "Reciprocal", "Resize", "Round", "Selu", "Sigmoid"),
            *("Sin", "Softmax", "Softplus", "Sqrt", "Tanh"),
        ),
        _FLOATS,
    ),
    **dict.fromkeys(
        (
            *("Abs", "Add", "ArgMax", "ArgMin", "Clip", "DepthToSpace", "Div", "Equal"),
            *("Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mod"),
            *("Mul", "Neg", "Pad", "Pow", "Range", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
            *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
            *("ReduceSumSquare", "Relu", "ScatterElements", "ScatterND", "Sign", "SpaceToDepth"),
            *("Sub", "Sum", "TopK"),
        ),
        _NUMBERS,
    ),
    **dict.fromkeys(
        (
            *("Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten"),
            *("Gather", "GatherElements", "GatherND", "Identity", "OneHot", "Reshape", "Shape"),
            *("Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
            "Where",
        ),
        _ANY,
    ),
    "Attention": (*_FLOATS, "INT8"),
    "Gelu": (*_NUMBERS, "INT8"),
}

# `CastLike`, `Constant`, `GroupNormalization` and `HardSwish` have no kernel: ONNX Runtime expands
# them into others when it loads a graph.
ONNXRUNTIME_CPU = frozenset(TENSORRT)

# TensorRT requires the axes of these operators, their second input, to be constants.
_CONSTANT_AXES = ("Squeeze", "Unsqueeze")
_RESIZE_MODES = (b"nearest", b"linear")


def tensorrt_problems(path: Path, plugins: frozenset[str] = frozenset()) -> list[str]:
    """The nodes of a graph that TensorRT's parser is documented to refuse, one line per kind.

    Args:
        path: of a graph; its weights are not read.
        plugins: operators of other domains that plugins provide, as `domain::name`.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {weight.name: weight.data_type for weight in graph.initializer}
    constants = {weight.name for weight in graph.initializer}
    problems = set()
    for node in graph.node:
        if f"{node.domain}::{node.op_type}" in plugins:
            continue
        if node.domain or node.op_type not in TENSORRT:
            problems.add(f"{node.domain}::{node.op_type}".removeprefix("::") + " is not supported")
            continue
        data = node.input[node.op_type == "Where"] if node.input else ""
        kind = onnx.TensorProto.DataType.Name(types.get(data, 0))
        if kind not in (*TENSORRT[node.op_type], "UNDEFINED"):
            problems.add(f"{node.op_type} is not supported for {kind}")
        problems.update(_restrictions(node, constants))
    return sorted(problems)


def _restrictions(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    kind = node.op_type
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if (kind.startswith("Reduce") or kind in _CONSTANT_AXES) and len(node.input) > 1:
        if node.input[1] not in constants:
            yield f"{kind} is not supported with computed axes"
    elif kind in ("LayerNormalization", "MaxPool"):
        if any(node.output[1:]):
            yield f"{kind} is not supported with a second output"
        if set(attributes["dilations"].ints if "dilations" in attributes else ()) - {1}:
            yield f"{kind} is not supported with dilations"
    elif kind == "Resize":
        mode = attributes["mode"].s if "mode" in attributes else b"nearest"
        if mode not in _RESIZE_MODES:
            yield f"Resize is not supported with mode {mode.decode()}"


def onnxruntime_problems(path: Path) -> list[str]:
    """Like `tensorrt_problems`, for ONNX Runtime on the CPU, without its restrictions."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    unknown = {n.op_type for n in nodes if n.domain or n.op_type not in ONNXRUNTIME_CPU}
    return [f"{name} is not supported" for name in sorted(unknown)]
