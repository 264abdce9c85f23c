"""Our own translations of PyTorch operators to ONNX, where the exporter's are not the best."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op

Translations = dict[Callable[..., Any], Callable[..., Any]]


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention of (B, H, N, D) as a scale, two products and a softmax.

    The exporter's translation transposes the keys through six nodes that compute their shape in
    every call, and scales both queries and keys; OpenVINO does not recognise attention in that.

    Where an image's cells attend to a prompt's tokens, about eight keys, the matrices are
    transposed: the softmax then runs over the keys of many queries in parallel, instead of within a
    vector register that eight keys do not fill. Its output enters the product directly, since NNCF
    would quantise it otherwise.

    Raises:
        NotImplementedError: a form that no model here has.
    """
    if dropout_p or is_causal or enable_gqa or len(query.shape) != 4:
        raise NotImplementedError("only attention of (B, H, N, D), without dropout, not causal")
    width = query.shape[3]
    scaled = op.Mul(query, op.Constant(value_float=width**-0.5 if scale is None else scale))
    if _attends_to_prompts(query, key) and attn_mask is None:
        weights = op.Softmax(op.MatMul(key, _transposed(scaled)), axis=2)  # (B, H, keys, N)
        return _transposed(op.MatMul(_transposed(value), weights))
    logits = op.MatMul(scaled, _transposed(key))
    if attn_mask is not None:
        logits = op.Add(logits, attn_mask)
    return op.MatMul(op.Softmax(logits, axis=3), value)


def _attends_to_prompts(query: Any, key: Any) -> bool:
    """Whether an image's cells (a fixed number) attend to a prompt's tokens (a dynamic number)."""
    return isinstance(query.shape[2], int) and not isinstance(key.shape[2], int)


def _transposed(matrices: Any) -> Any:
    return op.Transpose(matrices, perm=[0, 1, 3, 2])


ATTENTION: Translations = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
