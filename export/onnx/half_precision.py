"""Converts float32 ONNX graphs to half precision by changing the types in the graph.

TensorRT 11 takes precision only from the types in the file, and for other runtimes explicit types
leave less to choose. So every operator that computes in half precision has half-precision types,
with a Cast wherever the type changes.
"""

import re
from collections.abc import Iterable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from medfocus.engine.artifact.precision import Dtype, Precision
from medfocus.export.onnx.graphs import NAME_SCOPES
from medfocus.kernels.masked_attention import NAME

IR_DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

# Matrix products and convolutions: all the operators that half precision makes faster.
HALF = ("Conv", "ConvTranspose", "Gemm", "MatMul", NAME)
# Operators that move values, or change each one independently and cannot overflow.
FOLLOW = (
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Gelu",
    "Identity",
    "MaxPool",
    "Pad",
    "Relu",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
# It computes sin and cos of large angles from coordinates. (torch records no scope for the layer
# that does so, `pe_layer`, as upstream calls a method of it other than `forward`.)
FLOAT32_SCOPES = ("sam_prompt_encoder",)

# Sums and products follow only where the other operand is a constant with at most one dimension: a
# layer's bias, the scale of attention. Sums of activations are the residual stream.
_WITH_CONSTANT = ("Add", "Mul")
_BIAS_IS_FLOAT32 = (NAME,)  # our attention kernel takes only q, k and v in half precision
_TAKES_ANY_TYPE = ("Shape", "Size", "Cast")
_BLOCK = re.compile(r"(\S*?(?:blocks|transformer\.layers)\.\d+)")


def policy(dtype: Dtype, float32_blocks: Iterable[str] = ()) -> Precision:
    """The precision policy of a dtype, with blocks that stay float32."""
    if dtype == "fp32":
        return Precision()
    return Precision(dtype, HALF, FOLLOW, FLOAT32_SCOPES, tuple(float32_blocks))


def block_of(node: ir.Node) -> str:
    """The block of the model that a node comes from; "" for a node outside every submodule.

    A transformer layer is a block; so is each second-level module outside the layers, and what a
    first-level module computes itself.
    """
    modules = [scope for scope in _scopes(node) if scope][:-1]  # the last is the operation
    for module in modules:
        if found := _BLOCK.match(module):
            return found[1]
    return modules[min(1, len(modules) - 1)] if modules else ""


def last_layer(nodes: Iterable[ir.Node]) -> str:
    """The block of the last transformer layer; nodes in the order of execution."""
    return [block for block in map(block_of, nodes) if _BLOCK.fullmatch(block)][-1]


def is_exact(node: ir.Node, float32_scopes: Iterable[str]) -> bool:
    """Whether a node is outside every block, or within a scope that stays float32."""
    within = any(name in scope for name in float32_scopes for scope in _scopes(node))
    return within or not block_of(node)


def _scopes(node: ir.Node) -> list[str]:
    text = node.metadata_props.get(NAME_SCOPES, "[]")
    return re.findall(r"'([^']*)'", text)


def lower(model: ir.Model, graph_name: str, precision: Precision) -> ir.Model:
    """Rewrite a float32 graph so that its types are those of a precision policy.

    Inputs and outputs stay float32. Only nodes in a submodule are lowered: pooling, the focus bias
    and the head are a few small products that decide the output, and stay in float32.

    Args:
        model: in float32, with all types known; it is changed in place.
        graph_name: `segmenter` or `classifier`, as blocks are named in the policy.
        precision: the policy.

    Returns:
        `model`.
    """
    if precision.dtype == "fp32":
        return model
    _Lowering(model, graph_name, precision).run()
    return model


class _Lowering:
    def __init__(self, model: ir.Model, graph_name: str, precision: Precision) -> None:
        self._graph = model.graph
        self._name, self._precision = graph_name, precision
        self._dtype = IR_DTYPES[precision.dtype]
        self._halved: set[ir.Value] = set()
        self._casts: dict[ir.Value, ir.Value] = {}  # a value cast to its other type
        self._weights: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        for node in list(self._graph):
            if self._computes_in_half(node):
                self._make_half(node)
            elif node.op_type not in _TAKES_ANY_TYPE:
                for index, value in enumerate(node.inputs):
                    if value in self._halved:
                        node.replace_input_with(index, self._cast(value, ir.DataType.FLOAT, node))
        for index, value in enumerate(self._graph.outputs):
            if value in self._halved:
                self._graph.outputs[index] = self._output(value)
        for value, half in self._weights.items():
            if not value.uses() and value.name is not None:
                del self._graph.initializers[value.name]
            self._graph.register_initializer(half)

    def _computes_in_half(self, node: ir.Node) -> bool:
        precision = self._precision
        in_float32 = f"{self._name}: {block_of(node)}" in precision.float32_blocks
        exact = in_float32 or is_exact(node, precision.float32_scopes)
        if exact or not any(_is_float(output) for output in node.outputs):
            return False
        if not all(self._in_range(value) for value in node.inputs if _is_weight(value)):
            return False
        if node.op_type in precision.half:
            return True
        activations = [
            value
            for value in node.inputs
            if value is not None
            and (value in self._halved or (_is_float(value) and not _is_weight(value)))
        ]
        fed_half = bool(activations) and all(value in self._halved for value in activations)
        if node.op_type in _WITH_CONSTANT:
            constants = [v for v in node.inputs if v is not None and _is_weight(v)]
            return fed_half and len(constants) == 1 and len(constants[0].shape or ()) <= 1
        return node.op_type in precision.follow and fed_half

    def _in_range(self, weight: ir.Value | None) -> bool:
        """Whether a weight is in the dtype's range; otherwise its operator stays float32."""
        if not _is_float(weight):
            return True
        assert weight is not None
        assert weight.const_value is not None
        largest = np.abs(weight.const_value.numpy()).max(initial=0.0)
        limit = ml_dtypes.finfo(self._dtype.numpy()).max  # type: ignore[no-untyped-call]
        return bool(largest <= limit)

    def _make_half(self, node: ir.Node) -> None:
        inputs = node.inputs[:1] if node.op_type in _BIAS_IS_FLOAT32 else node.inputs
        for index, value in enumerate(inputs):
            if value is None or value in self._halved or not _is_float(value):
                continue
            half = self._weight(value) if _is_weight(value) else None
            node.replace_input_with(index, half or self._cast(value, self._dtype, node))
        for output in node.outputs:
            if _is_float(output):
                output.dtype = self._dtype
                self._halved.add(output)

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        if value not in self._casts:
            cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)})
            cast.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
            cast.outputs[0].dtype, cast.outputs[0].shape = dtype, value.shape
            self._graph.insert_before(before, cast)
            self._casts[value] = cast.outputs[0]
        return self._casts[value]

    def _weight(self, value: ir.Value) -> ir.Value:
        """An initializer in half precision, shared by all its uses."""
        if value not in self._weights:
            assert value.const_value is not None
            lowered = value.const_value.numpy().astype(self._dtype.numpy())
            name = f"{value.name}_{self._precision.dtype}"
            half = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self._dtype))
            half.const_value = ir.Tensor(lowered, dtype=self._dtype, name=name)
            self._weights[value] = half
        return self._weights[value]

    def _output(self, value: ir.Value) -> ir.Value:
        """A graph output in float32 under its own name."""
        name, value.name = value.name, f"{value.name}_{self._precision.dtype}"
        if value not in self._casts:
            cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", ir.DataType.FLOAT)})
            cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
            self._graph.append(cast)
            self._casts[value] = cast.outputs[0]
        output = self._casts[value]
        output.name = name
        return output


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
