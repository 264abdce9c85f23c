"""Graphs of mixed precision, converted to float32 for OpenVINO."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import openvino
import pytest
from openvino import Type

from medfocus.engine.artifact.precision import Dtype
from medfocus.engine.backends.openvino import in_float32
from medfocus.export.onnx.graphs import SEGMENTER_INPUTS, save
from medfocus.export.onnx.half_precision import lower, policy
from medfocus.export.validate.images import phantoms
from tests.conftest import OnnxFile

HALVES = {"fp16": Type.f16, "bf16": Type.bf16}
FLOATS = (*HALVES.values(), Type.f32)


class Mixed(NamedTuple):
    """The segmenter in a half precision, and in float32 with the very same rounded weights."""

    path: Path
    half: Type
    exact: Path


@pytest.fixture(params=HALVES)
def mixed(request: pytest.FixtureRequest, onnx_file: OnnxFile, tmp_path: Path) -> Mixed:
    dtype: Dtype = request.param
    float32 = onnx_file("segmenter", "best")
    lowered = lower(ir.load(float32), "segmenter", policy(dtype))
    save(lowered, tmp_path / "mixed.onnx")
    exact = ir.load(float32)
    for name, rounded in lowered.graph.initializers.items():
        if name.endswith(f"_{dtype}"):
            assert rounded.const_value is not None
            weight = exact.graph.initializers[name.removesuffix(f"_{dtype}")]
            weight.const_value = ir.Tensor(rounded.const_value.numpy().astype(np.float32))
    save(exact, tmp_path / "exact.onnx")
    return Mixed(tmp_path / "mixed.onnx", HALVES[dtype], tmp_path / "exact.onnx")


def outputs(model: openvino.Model) -> tuple[list[np.ndarray], int]:
    """The outputs for two phantoms, and how many softmaxes were not fused into attention."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = np.stack([image.pixels for image in phantoms(2)]).transpose(0, 3, 1, 2)
    given = (
        pixels.astype(np.float32) / 128 - 1,
        np.full((2, 3, 1, 2), [[[100.0]], [[140.0]], [[60.0]]], np.float32),
        np.ones((2, 3, 1), np.int32),
    )
    found = compiled(dict(zip(SEGMENTER_INPUTS, given, strict=True)))
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in
             compiled.get_runtime_model().get_ops()]  # fmt: skip
    return [np.array(found[place]) for place in range(2)], kinds.count("Softmax")


@pytest.mark.slow
def test_the_result_is_the_float32_graph_and_its_attention_is_fused(mixed: Mixed) -> None:
    core = openvino.Core()
    model = in_float32(core.read_model(mixed.path))
    assert halves(model, mixed.half) == halves(core.read_model(mixed.path), mixed.half) > 0
    for node in model.get_ops():
        if node.get_type_name() == "Convert" and node.get_element_type() in FLOATS:
            source = node.input_value(0)
            constant = source.get_node().get_type_name() == "Constant"
            assert constant or source.get_element_type() not in FLOATS
        elif node.get_type_name() != "Constant" and node.get_output_size():
            assert node.get_output_element_type(0) not in HALVES.values()
    expected, _ = outputs(core.read_model(mixed.exact))
    found, left = outputs(model)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert left == 2, "those over a prompt's tokens; OpenVINO fused all others into attention"


def halves(model: openvino.Model, half: Type) -> int:
    """The number of constants stored in a type."""
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(node.get_element_type() == half for node in constants)
