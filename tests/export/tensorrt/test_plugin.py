"""The attention kernel as a TensorRT plugin: its ONNX node, its launch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import triton
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from medfocus.errors import InputError
from medfocus.export.onnx.graphs import CLASSIFIER_INPUTS, operators, save_checked
from medfocus.export.tensorrt.plugin_graph import PLUGIN, _masked_attention, plugin_classifier_onnx
from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention import reference
from medfocus.kernels.tile import choose
from tests.errors import refuses
from tests.export.onnx.exported import MASK, classifier
from tests.export.onnx.test_graphs import classifier_inputs
from tests.export.tensorrt.operator_support import tensorrt_problems
from tests.tensorrt_api import bindings

ROOT = Path(__file__).parents[3]
# Triton compiles only outside its interpreter.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


class MaskedAttention(OpRun):
    """The node's definition for ONNX's reference evaluator."""

    op_domain = "medfocus"

    def _run(self, qkv: Any, key_bias: Any, num_heads: int = 0, **_: Any) -> tuple[Any]:
        width = qkv.shape[2] // 3 // num_heads
        tensors = torch.from_numpy(qkv), torch.from_numpy(key_bias)
        return (reference(*tensors, num_heads, width**-0.5).numpy(),)


MaskedAttention.__name__ = "masked_attention"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["soft", "none"])
def test_the_graph_with_plugins_equals_pytorch(mode: Any, tmp_path: Path) -> None:
    graph, path = classifier(mode), tmp_path / "classifier.onnx"
    save_checked(plugin_classifier_onnx(graph, MASK), path)
    assert PLUGIN in operators(path)
    assert tensorrt_problems(path, frozenset({PLUGIN})) == []
    nodes = [n for n in onnx.load(path).graph.node if n.op_type == "masked_attention"]
    assert len(nodes) == graph.clip.layers - 1, "the last layer has one query row"
    for node in nodes:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert found == {
            "num_heads": 2,
            "plugin_namespace": b"medfocus",
            "plugin_version": b"1",
        }
        assert len(node.input) == 2
    arguments = classifier_inputs(graph, 3)
    inputs = {n: t.numpy() for n, t in zip(CLASSIFIER_INPUTS, arguments, strict=True)}
    evaluator = ReferenceEvaluator(str(path), new_ops=[MaskedAttention])
    outputs: Any = evaluator.run(None, inputs)
    embedding, probabilities, *_ = outputs
    with torch.inference_mode():
        expected = graph(*arguments)
    np.testing.assert_allclose(embedding, expected.embedding, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)


def exported(num_heads: int, width: int) -> list[str]:
    """The operators in a graph of torch.export."""

    class Attention(torch.nn.Module):
        def forward(self, qkv: torch.Tensor, key_bias: torch.Tensor) -> torch.Tensor:
            from medfocus.kernels import masked_attention

            return masked_attention(qkv, key_bias, num_heads)

    arguments = torch.zeros(2, 7, 3 * num_heads * width), torch.zeros(2, 7)
    program = torch.export.export(Attention(), arguments)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_the_operator_is_exported_only_on_request() -> None:
    operator = "medfocus.masked_attention.default"
    assert operator not in exported(2, 16)
    with dispatch.emitting("masked_attention"):
        assert exported(2, 16) == [operator]
        # Calls outside an export choose their path as usual.
        assert not dispatch.takes_kernel("masked_attention", torch.zeros(1), "no")
    with dispatch.emitting("cls_attention"):
        assert operator not in exported(2, 16)
    assert operator not in exported(2, 16)


def test_an_unsupported_width_is_not_exported() -> None:
    # torch.export wraps the InputError in an exception of its own.
    with dispatch.emitting("masked_attention"), pytest.raises(Exception, match="D = 20"):
        exported(2, 20)


def test_another_scale_is_refused() -> None:
    with refuses(InputError, "kernel.unsupported", "scale"):
        _masked_attention(SimpleNamespace(shape=(2, 7, 96)), None, 2, 0.5)


@pytest.mark.slow
@pytest.mark.skipif(bindings.missing() is not None, reason=bindings.missing() or "")
@pytest.mark.parametrize(("dtype", "heads"), [("HALF", 12), ("FLOAT", 3)])
def test_tensorrt_gets_the_kernel_and_its_launch(dtype: str, heads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tensorrt_api.plugin", str(heads), "197", "64", dtype],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["creators"] == [["masked_attention", "medfocus"]]
    assert found["attributes"] == {"num_heads": "int"}
    assert found["types"] == [dtype]
    assert found["output"] == ["(B + 0)", 197, heads * 64]
    assert found["formats"] == [[dtype, "LINEAR"], ["FLOAT", "LINEAR"], [dtype, "LINEAR"]]
    assert found["extra"] == 0
    tile = choose(
        "masked_attention", 197, 64, torch.float16 if dtype == "HALF" else torch.float32, 90
    )
    launch = found["launch"]
    assert launch["grid_x"] == f"(B * {heads * triton.cdiv(197, tile.block_m)})"
    assert (launch["grid_y"], launch["grid_z"]) == (1, 1)
    assert (launch["block_x"], launch["block_y"], launch["block_z"]) == (32 * tile.warps, 1, 1)
    assert launch["shared_mem"] > 0
    entry = re.search(rf"\.entry {found['name']}\((.*?)\)", found["ptx"], re.DOTALL)
    assert entry is not None
    assert entry[1].count(".param .u64") == 3
