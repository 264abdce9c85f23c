"""Attention in ONNX, run by ONNX Runtime and compared with the formula in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx.helper import get_attribute_value
from torch import Tensor, nn
from torch.export import Dim

from medfocus.export.onnx.translations import ATTENTION

BATCH, TOKENS = {0: Dim("batch")}, {0: Dim("batch"), 2: Dim("tokens")}


class Attention(nn.Module):
    """PyTorch's attention with given options."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, **self.options)


def export(attention: Attention, tensors: list[Tensor], axes: list[Any], path: Path) -> Path:
    torch.onnx.export(
        attention.eval(), tuple(tensors), path, dynamo=True, dynamic_shapes=tuple(axes),
        input_names=["q", "k", "v", "mask"][: len(tensors)], opset_version=22,
        custom_translation_table=ATTENTION, verbose=False,
    )  # fmt: skip
    return path


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    logits = scale * q.double() @ k.double().mT
    return (logits if mask is None else logits + mask).softmax(-1) @ v.double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "masked", "key_axes", "axis"),
    [
        (None, False, BATCH, 3),
        (0.7, True, BATCH, 3),
        (None, False, TOKENS, 2),
        (2.0, True, TOKENS, 3),
    ],
)
def test_the_translation_computes_attention(
    scale: float | None, masked: bool, key_axes: Any, axis: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 2 * torch.randn(shape, generator=generator)

    def tensors(batch: int, keys: int) -> list[Tensor]:
        mask = [random(batch, 1, 1, keys)] if masked else []
        return [
            random(batch, 3, 20, 8),
            random(batch, 3, keys, 8),
            random(batch, 3, keys, 4),
            *mask,
        ]

    mask_axes = {0: BATCH[0], 3: key_axes[2]} if 2 in key_axes else BATCH
    axes = [BATCH, key_axes, key_axes, *([mask_axes] if masked else [])]
    keys = 5 if 2 in key_axes else 6
    path = export(Attention(scale=scale), tensors(2, 6), axes, tmp_path / "attention.onnx")
    arguments = tensors(4, keys)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    (found,) = session.run(None, {n: t.numpy() for n, t in zip(names, arguments, strict=True)})
    q, k, v, *mask = arguments
    expected = formula(q, k, v, mask[0] if masked else None, scale or 8**-0.5)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    nodes = onnx.load(path).graph.node
    (softmax,) = (node for node in nodes if node.op_type == "Softmax")
    assert [get_attribute_value(each) for each in softmax.attribute] == [axis]
    transposed = 3 if axis == 2 else 1
    kinds = sorted(node.op_type for node in nodes if node.op_type != "Add")
    assert kinds == ["MatMul", "MatMul", "Mul", "Softmax", *transposed * ["Transpose"]]


@pytest.mark.slow
def test_causal_attention_is_refused(tmp_path: Path) -> None:
    tensors = [torch.zeros(2, 3, 6, 8)] * 3
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as refused:
        export(Attention(is_causal=True), tensors, [BATCH] * 3, tmp_path / "causal.onnx")
    assert "not causal" in str(refused.value)
