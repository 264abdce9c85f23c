"""The classifier's ONNX graph for TensorRT with our attention kernel as a plugin."""

from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from medfocus.errors import InputError
from medfocus.export.onnx.graphs import classifier_onnx
from medfocus.export.onnx.translations import Translations
from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention import NAME
from medfocus.models.graphs import ClassifierGraph

NAMESPACE = "medfocus"
VERSION = "1"  # the version of every quick deployable plugin
PLUGIN = f"{NAMESPACE}::{NAME}"

_SCHEMA = OpSchema(
    NAME,
    NAMESPACE,
    1,
    inputs=[
        OpSchema.FormalParameter("qkv", "T", "(B, N, 3·H·D)"),
        OpSchema.FormalParameter("key_bias", "tensor(float)", "(B, N)"),
    ],
    outputs=[OpSchema.FormalParameter("out", "T", "(B, N, H·D)")],
    type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
    attributes=[
        OpSchema.Attribute("num_heads", OpSchema.AttrType.INT),
        OpSchema.Attribute("plugin_namespace", OpSchema.AttrType.STRING),
        OpSchema.Attribute("plugin_version", OpSchema.AttrType.STRING),
    ],
)
_node = Op(Opset(NAMESPACE, 1), NAME, _SCHEMA)


def plugin_classifier_onnx(graph: ClassifierGraph, mask_size: int) -> ir.Model:
    """Like `classifier_onnx`, with `medfocus::masked_attention` nodes, which only our plugin runs.

    The last layer's attention has one query row and stays in standard operators.

    Raises:
        InputError: the kernel does not support the head width (`kernel.unsupported`).
    """
    with dispatch.emitting(NAME):
        return classifier_onnx(graph, mask_size, TRANSLATIONS)


def _masked_attention(qkv: Any, key_bias: Any, num_heads: int, scale: float) -> Any:
    """A node for which TensorRT's parser finds the plugin by name, namespace and version.

    The kernel takes one bias per key; plain CLIP, which has none, is given zeros.
    """
    width = qkv.shape[-1] // (3 * num_heads)
    if abs(scale * width**0.5 - 1) > 1e-6:
        raise InputError(
            "scale",
            f"{scale} is not D^-0.5",
            "use --trt-attention native",
            code="kernel.unsupported",
        )
    if key_bias is None:
        zero: Any = op.Constant(value_float=0.0)
        key_bias = op.Expand(zero, op.Shape(qkv, start=0, end=2))
    return _node(
        qkv,
        key_bias,
        num_heads=num_heads,
        plugin_namespace=NAMESPACE,
        plugin_version=VERSION,
    )


TRANSLATIONS: Translations = {torch.ops.medfocus.masked_attention.default: _masked_attention}
