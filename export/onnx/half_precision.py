"""float32 graphs to half precision, in the graph's own types: a pass over ONNX.

TensorRT 11 takes precision from the types in the file and from nowhere else, and other runtimes
may change less than they like. So what computes in half precision is written out, operator by
operator, with a Cast wherever the type changes.
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

# Matrix products and convolutions: all the precision that half precision makes faster.
HALF = ("Conv", "ConvTranspose", "Gemm", "MatMul", NAME)
# What moves values, or changes each alone and cannot overflow.
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
# Coordinates go through sin and cos of large angles there. (torch names no scope for the layer that
# does it, `pe_layer`, as upstream calls it by another method than `forward`.)
FLOAT32_SCOPES = ("sam_prompt_encoder",)

# Sums and products follow only where the other operand is a constant of one dimension or none: a
# layer's own bias, the scale of attention. Sums of activations are the residual stream.
_WITH_CONSTANT = ("Add", "Mul")
_BIAS_IS_FLOAT32 = (NAME,)  # our attention kernel's: it takes q, k and v in half alone
_TAKES_ANY_TYPE = ("Shape", "Size", "Cast")
_BLOCK = re.compile(r"(\S*?(?:blocks|transformer\.layers)\.\d+)")


def policy(dtype: Dtype, float32_blocks: Iterable[str] = ()) -> Precision:
    """The precision policy of a dtype, with blocks that stay float32."""
    if dtype == "fp32":
        return Precision()
    return Precision(dtype, HALF, FOLLOW, FLOAT32_SCOPES, tuple(float32_blocks))


def block_of(node: ir.Node) -> str:
    """The block of the model that a node comes from; "" for what belongs to no submodule.

    A transformer layer is a block; so is each module of the second level that is not in layers, and
    what a module of the first level computes itself.
    """
    modules = [scope for scope in _scopes(node) if scope][:-1]  # the last names the operation
    for module in modules:
        if found := _BLOCK.match(module):
            return found[1]
    return modules[min(1, len(modules) - 1)] if modules else ""


def last_layer(nodes: Iterable[ir.Node]) -> str:
    """The block that is the transformer layer computed last; nodes in the order of their work."""
    return [block for block in map(block_of, nodes) if _BLOCK.fullmatch(block)][-1]


def is_exact(node: ir.Node, float32_scopes: Iterable[str]) -> bool:
    """Whether a node is outside of every block, or within a scope that stays float32."""
    within = any(part in scope for part in float32_scopes for scope in _scopes(node))
    return within or not block_of(node)


def _scopes(node: ir.Node) -> list[str]:
    text = node.metadata_props.get(NAME_SCOPES, "[]")
    return re.findall(r"'([^']*)'", text)


def lower(model: ir.Model, graph_name: str, precision: Precision) -> ir.Model:
    """Rewrite a float32 graph so that its types are those of a precision policy.

    Inputs and outputs stay float32. Only what lies in a submodule is lowered: pooling, the
    focus bias and the head, a few small products, decide the answer and stay exact.

    Args:
        model: in float32, with all types known; it is changed.
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
        self._other: dict[ir.Value, ir.Value] = {}  # a value in the type that it has not
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
        spared = f"{self._name}: {block_of(node)}" in precision.float32_blocks
        exact = spared or is_exact(node, precision.float32_scopes)
        if exact or not any(_is_float(output) for output in node.outputs):
            return False
        if not all(self._holds(value) for value in node.inputs if _is_weight(value)):
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

    def _holds(self, weight: ir.Value | None) -> bool:
        """Whether the dtype's range holds a weight; otherwise its operator stays float32."""
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
        if value not in self._other:
            cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)})
            cast.outputs[0].name = f"{value.name}_{dtype.name.lower()}"
            cast.outputs[0].dtype, cast.outputs[0].shape = dtype, value.shape
            self._graph.insert_before(before, cast)
            self._other[value] = cast.outputs[0]
        return self._other[value]

    def _weight(self, value: ir.Value) -> ir.Value:
        """An initializer in half precision, one for all that use it."""
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
        if value not in self._other:
            cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", ir.DataType.FLOAT)})
            cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
            self._graph.append(cast)
            self._other[value] = cast.outputs[0]
        output = self._other[value]
        output.name = name
        return output


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
