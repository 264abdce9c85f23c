"""Both graphs, in every mode and policy, contain only what TensorRT and ONNX Runtime support."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from medfocus.export.onnx.graphs import operators
from tests.conftest import OnnxFile
from tests.export.onnx.exported import MODES
from tests.export.tensorrt.operator_support import (
    ONNXRUNTIME_CPU,
    TENSORRT,
    onnxruntime_problems,
    tensorrt_problems,
)


@pytest.fixture(scope="module")
def graphs(onnx_file: OnnxFile) -> list[Path]:
    """The graphs in every policy and mode."""
    segmenters = [onnx_file("segmenter", policy) for policy in ("best", "union")]
    return segmenters + [onnx_file("classifier", mode) for mode in MODES]


@pytest.mark.slow
def test_the_runtimes_support_every_operator(graphs: list[Path]) -> None:
    found = {name for path in graphs for name in operators(path)}
    assert found <= set(TENSORRT)
    assert found <= ONNXRUNTIME_CPU


def test_the_list_for_onnxruntime_matches_its_kernels() -> None:
    native = onnxruntime.capi.onnxruntime_pybind11_state
    if not hasattr(native, "get_all_opkernel_def"):
        pytest.skip("this onnxruntime does not list its kernels")
    kernels = {
        kernel.op_name
        for kernel in native.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider" and not kernel.domain
    }
    expanded = {"CastLike", "Constant", "GroupNormalization", "HardSwish"}
    assert ONNXRUNTIME_CPU - kernels <= expanded


@pytest.mark.slow
def test_the_runtimes_support_every_type_and_attribute(graphs: list[Path]) -> None:
    assert {path.stem: tensorrt_problems(path) for path in graphs} == {
        path.stem: [] for path in graphs
    }
    assert not [problem for path in graphs for problem in onnxruntime_problems(path)]


@pytest.mark.slow
def test_onnxruntime_loads_every_graph(graphs: list[Path]) -> None:
    for path in graphs:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert session.get_providers() == ["CPUExecutionProvider"]


def saved(path: Path, *nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT) -> Path:
    value = helper.make_tensor_value_info("x", kind, [2, 3, 4, 4])
    axes = helper.make_tensor_value_info("axes", TensorProto.INT64, [1])
    result = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(list(nodes), "graph", [value, axes], [result])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("medfocus", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def test_unsupported_nodes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    node = helper.make_node
    for refused, kind, problem in (
        (node("NonZero", ["x"], ["y"]), TensorProto.FLOAT, "NonZero is not supported"),
        (node("Pad", ["x", "axes"], ["y"]), TensorProto.BOOL, "Pad is not supported for BOOL"),
        (
            node("ReduceMax", ["x", "axes"], ["y"]),
            TensorProto.FLOAT,
            "ReduceMax is not supported with computed axes",
        ),
        (
            node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 2]),
            TensorProto.FLOAT,
            "MaxPool is not supported with dilations",
        ),
        (
            node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2]),
            TensorProto.FLOAT,
            "MaxPool is not supported with a second output",
        ),
        (
            node("Resize", ["x", "", "", "axes"], ["y"], mode="cubic"),
            TensorProto.FLOAT,
            "Resize is not supported with mode cubic",
        ),
        (
            node("masked_attention", ["x"], ["y"], domain="medfocus"),
            TensorProto.FLOAT,
            "medfocus::masked_attention is not supported",
        ),
    ):
        assert tensorrt_problems(saved(path, refused, kind=kind)) == [problem]
    assert tensorrt_problems(path, frozenset({"medfocus::masked_attention"})) == []
    assert onnxruntime_problems(path) == ["masked_attention is not supported"]
