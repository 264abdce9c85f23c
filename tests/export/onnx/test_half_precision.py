"""Half precision in the graphs' types: which operators, where it stops, how accurate it is."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from medfocus.engine.artifact.precision import Dtype
from medfocus.export.onnx.graphs import CLASSIFIER_INPUTS, save_checked
from medfocus.export.onnx.half_precision import block_of, lower, policy
from tests.conftest import OnnxFile
from tests.export.onnx.exported import classifier
from tests.export.onnx.test_graphs import classifier_inputs

pytestmark = pytest.mark.slow
HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@pytest.fixture(scope="module")
def graphs(onnx_file: OnnxFile) -> dict[str, Path]:
    """Both float32 graphs, as files."""
    return {
        "segmenter": onnx_file("segmenter", "best"),
        "classifier": onnx_file("classifier", "soft"),
    }


def lowered(graphs: dict[str, Path], name: str, dtype: Dtype, *blocks: str) -> ir.Model:
    return lower(ir.load(graphs[name]), name, policy(dtype, blocks))


def types(node: ir.Node) -> set[ir.DataType | None]:
    """The floating-point types of a node's inputs and outputs."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return {value.dtype for value in values if value.dtype and value.dtype.is_floating_point()}


def before(value: ir.Value) -> Iterator[ir.Node]:
    """All nodes on which a value depends."""
    node = value.producer()
    if node is not None:
        yield node
        for value_in in node.inputs:
            if value_in is not None:
                yield from before(value_in)


def test_the_decoders_first_layer_contains_all_its_products(graphs: dict[str, Path]) -> None:
    """Like the second, though an image's prompts share some: keeping it in float32 keeps them."""
    nodes = ir.load(graphs["segmenter"]).graph
    products = Counter(block_of(node) for node in nodes if node.op_type in ("MatMul", "Gemm"))
    layers = [products[f"segmenter.sam_mask_decoder.transformer.layers.{n}"] for n in range(2)]
    assert layers[0] == layers[1] > 10


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["segmenter", "classifier"])
def test_which_operators_compute_in_which_type(
    graphs: dict[str, Path], name: str, dtype: Dtype
) -> None:
    model, half = lowered(graphs, name, dtype), HALVES[dtype]
    seen = {"products": 0, "exact": 0}
    for node in model.graph:
        if node.op_type in ("LayerNormalization", "Softmax", "Sin", "Cos", "Pow", "ReduceMean"):
            assert types(node) == {ir.DataType.FLOAT}, node
            seen["exact"] += 1
        if node.op_type in ("Sin", "Cos"):
            (angle,) = node.inputs
            assert angle is not None
            assert not any(types(n) & set(HALVES.values()) for n in before(angle)), "coordinates"
        elif node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            scopes = node.metadata_props["pkg.torch.onnx.name_scopes"]
            exact = not block_of(node) or "sam_prompt_encoder" in scopes
            assert types(node) == {ir.DataType.FLOAT if exact else half}, node
            seen["products"] += not exact
        elif node.op_type == "Add" and not any(v.is_initializer() for v in node.inputs if v):
            assert half not in types(node), "a sum of activations"
    assert seen["products"] > 20
    assert seen["exact"] > 10
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.dtype != half, "the caller sees float32"


def test_layer_biases_and_scales_stay_in_half_precision(graphs: dict[str, Path]) -> None:
    """Otherwise two Casts would follow every product."""
    model = lowered(graphs, "classifier", "fp16")
    biased = [node for node in model.graph if node.op_type in ("Add", "Gelu") and block_of(node)]
    halved = [node for node in biased if types(node) == {ir.DataType.FLOAT16}]
    assert len(halved) >= 3 * 6


def test_a_block_of_the_policy_stays_float32(graphs: dict[str, Path]) -> None:
    block = "clip.visual.transformer.resblocks.2"
    model = lowered(graphs, "classifier", "fp16", f"classifier: {block}")
    within = [node for node in model.graph if block_of(node) == block]
    assert sum(node.op_type == "MatMul" for node in within) >= 4
    assert all(ir.DataType.FLOAT16 not in types(node) for node in within)
    others = [
        n for n in model.graph if block_of(n).endswith("resblocks.3") and n.op_type == "MatMul"
    ]
    assert all(types(node) == {ir.DataType.FLOAT16} for node in others)


def test_a_block_of_the_other_graph_does_not_stay_float32(graphs: dict[str, Path]) -> None:
    block = "clip.visual.transformer.resblocks.2"
    model = lowered(graphs, "classifier", "fp16", f"segmenter: {block}")
    products = [n for n in model.graph if block_of(n) == block and n.op_type == "MatMul"]
    assert all(types(node) == {ir.DataType.FLOAT16} for node in products)


def test_the_product_of_a_weight_beyond_fp16_stays_float32(graphs: dict[str, Path]) -> None:
    def enlarge(model: ir.Model) -> ir.Node:
        node = next(
            n
            for n in model.graph
            if n.op_type == "MatMul" and n.inputs[1] is not None and n.inputs[1].is_initializer()
        )
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        array = weight.const_value.numpy().copy()
        array.flat[0] = 70000.0
        weight.const_value = ir.tensor(array)
        return node

    model = ir.load(graphs["classifier"])
    node = enlarge(model)
    lower(model, "classifier", policy("fp16"))
    assert types(node) == {ir.DataType.FLOAT}
    model = ir.load(graphs["classifier"])
    node = enlarge(model)
    lower(model, "classifier", policy("bf16"))
    assert types(node) == {ir.DataType.BFLOAT16}


def test_float32_changes_nothing(graphs: dict[str, Path]) -> None:
    model = lowered(graphs, "classifier", "fp32")
    assert ir.DataType.FLOAT16 not in {t for node in model.graph for t in types(node)}
    assert "Cast" not in {n.op_type for n in model.graph} - {
        n.op_type for n in ir.load(graphs["classifier"]).graph
    }


@pytest.mark.parametrize("name", ["segmenter", "classifier"])
def test_no_value_is_cast_back_and_forth(graphs: dict[str, Path], name: str) -> None:
    """Each value is cast at most once, however many nodes read it, and never back."""
    model = lowered(graphs, name, "fp16")
    casts = [node for node in model.graph if node.op_type == "Cast"]
    sources = [node.inputs[0] for node in casts if types(node) >= {ir.DataType.FLOAT16}]
    assert len(sources) == len(set(sources))
    for source in sources:
        producer = source.producer() if source is not None else None
        assert producer is None or producer.op_type != "Cast"


def test_fp16_is_as_accurate_as_autocast(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Both compared with float32; autocast's policy is PyTorch's own."""
    path = tmp_path / "classifier.onnx"
    save_checked(lowered(graphs, "classifier", "fp16"), path)
    graph = classifier("soft")
    arguments = classifier_inputs(graph, 4)
    with torch.inference_mode():
        expected = graph(*arguments).embedding.double()
        with torch.autocast("cpu", torch.float16):
            autocast = graph(*arguments).embedding.double()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {n: t.numpy() for n, t in zip(CLASSIFIER_INPUTS, arguments, strict=True)}
    found = torch.from_numpy(session.run(["embedding"], feed)[0].astype(np.float64))
    error: Callable[[torch.Tensor], float] = lambda x: float((x - expected).norm())  # noqa: E731
    assert 0 < error(found) <= 2 * error(autocast)
