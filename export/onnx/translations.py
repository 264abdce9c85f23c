"""How PyTorch's operators are written in ONNX, where the exporter's own way is not the best."""

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

    The exporter's own turns the keys by way of their shape, six nodes to be computed in each call,
    and scales queries and keys both; OpenVINO finds no attention in that.

    Where an image's cells look at a prompt's tokens, some eight keys, the matrices are turned: the
    softmax runs over the keys side by side for many queries, and not within a vector register that
    they do not fill. Its output enters the product as it is, or NNCF would quantise it.

    Raises:
        NotImplementedError: forms that no model here has.
    """
    if dropout_p or is_causal or enable_gqa or len(query.shape) != 4:
        raise NotImplementedError("only attention of (B, H, N, D), without dropout, not causal")
    width = query.shape[3]
    scaled = op.Mul(query, op.Constant(value_float=width**-0.5 if scale is None else scale))
    if _asks_prompts(query, key) and attn_mask is None:
        weights = op.Softmax(op.MatMul(key, _turned(scaled)), axis=2)  # (B, H, keys, N)
        return _turned(op.MatMul(_turned(value), weights))
    logits = op.MatMul(scaled, _turned(key))
    if attn_mask is not None:
        logits = op.Add(logits, attn_mask)
    return op.MatMul(op.Softmax(logits, axis=3), value)


def _asks_prompts(query: Any, key: Any) -> bool:
    """Whether an image's cells, so many, look at a prompt's tokens, which are any number."""
    return isinstance(query.shape[2], int) and not isinstance(key.shape[2], int)


def _turned(matrices: Any) -> Any:
    return op.Transpose(matrices, perm=[0, 1, 3, 2])


ATTENTION: Translations = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
