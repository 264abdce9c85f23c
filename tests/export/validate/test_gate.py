"""What happens where a precision is too low: blocks stay in float32, or nothing is written."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import onnx_ir as ir
import openvino
import pytest
import torch
from rich.console import Console

from medfocus.engine import Engine
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.parity import THRESHOLDS
from medfocus.errors import InputError, ParityError
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate import gate, graph_writer
from medfocus.export.validate.gate import Gate
from medfocus.export.validate.graph_writer import GraphWriter
from medfocus.export.validate.images import phantoms
from medfocus.models.sam2.segmenter import Segmenter
from tests.conftest import OnnxFile, random_bundle
from tests.errors import refuses
from tests.tensorrt_api.installed import installed

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _exported_once(onnx_file: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segmenter of `random_bundle`, which no test here changes."""
    segmenter = onnx_file("segmenter", "best")
    monkeypatch.setattr(graph_writer, "segmenter_onnx", lambda _: ir.load(segmenter))


HOT = "clip.visual.transformer.resblocks.3"


def overflowing_bundle() -> ModelBundle:
    """One layer's MLP exceeds 65504 internally; its output has the usual size."""
    bundle = random_bundle()
    mlp = bundle.clip.visual.transformer.resblocks[3].mlp
    with torch.no_grad():
        mlp.c_fc.weight.mul_(3e5)
        mlp.c_fc.bias.mul_(3e5)
        mlp.c_proj.weight.div_(3e5)
    return bundle


def test_the_block_that_overflows_stays_float32(tmp_path: Path) -> None:
    small = ExportConfig("fp16", ("onnx",), buckets=(1, 4))
    images = phantoms(4)
    manifest = build(tmp_path / "plain", random_bundle(), small, images)
    assert manifest.precision.float32_blocks == ()
    manifest = build(tmp_path / "engine", overflowing_bundle(), small, images)
    assert manifest.precision.float32_blocks == (f"classifier: {HOT}",)
    assert manifest.parity["onnxruntime"].embedding_cosine > 0.9999
    predictions = Engine.load(tmp_path / "engine").classify(images[0].pixels, strict=True)
    assert predictions[0].label


def test_bf16_has_the_range_of_float32(tmp_path: Path) -> None:
    config = ExportConfig("bf16", ("openvino",), buckets=(1,))
    manifest = build(tmp_path / "engine", overflowing_bundle(), config, phantoms(4))
    assert manifest.precision.float32_blocks == ()


def test_a_bf16_graph_computed_in_float32_has_the_limits_of_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor without bf16: the graph's weights are rounded nevertheless."""
    monkeypatch.setattr(
        "medfocus.export.openvino.compute_precision.best_compute_precision", lambda dtype: "fp32"
    )
    manifest = build(
        tmp_path / "engine",
        random_bundle(),
        ExportConfig("bf16", ("openvino",), buckets=(1,)),
        phantoms(4),
    )
    assert manifest.backends == {"openvino": "fp32"}
    assert manifest.thresholds["openvino"].embedding_cosine == 0.999


def test_an_engine_that_never_passes_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = replace(THRESHOLDS["fp16"], embedding_cosine=1.1)
    monkeypatch.setitem(THRESHOLDS, "fp16", impossible)
    with refuses(ParityError, "parity.missed", "onnxruntime in fp16") as caught:
        build(
            tmp_path / "engine",
            random_bundle(),
            ExportConfig("fp16", ("onnx",), buckets=(1,)),
            phantoms(2),
        )
    assert "embedding_cosine" in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_an_optional_target_that_fails_is_left_out_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here PyTorch in bf16 fails; the files that only it reads are deleted."""
    monkeypatch.setitem(THRESHOLDS, "bf16", replace(THRESHOLDS["bf16"], mask_iou=1.1))
    monkeypatch.setattr(
        "medfocus.export.openvino.compute_precision.best_compute_precision", lambda dtype: "fp32"
    )
    monkeypatch.setattr(GraphWriter, "blocks_by_range", lambda _: [])  # all stay in bf16
    output = StringIO()
    config = ExportConfig("bf16", ("torch", "openvino"), buckets=(1,), optional=True)
    with refuses(ParityError, "parity.missed", "torch in bf16"):
        build(tmp_path / "engine", random_bundle(), config, phantoms(2))
    assert list(tmp_path.iterdir()) == [], "the last target is not optional"

    reachable = {"fp32": THRESHOLDS["fp16"], "bf16": THRESHOLDS["bf16"]}
    monkeypatch.setattr(Gate, "_thresholds", lambda gate, precision: reachable[precision])
    progress = ProgressReporter(Console(file=output))
    manifest = build(tmp_path / "engine", random_bundle(), config, phantoms(2), progress=progress)
    assert manifest.backends == {"openvino": "fp32"}
    assert set(manifest.parity) == {"openvino"}
    assert not [name for name in manifest.files if name in (SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS)]
    assert "target torch" in output.getvalue()
    assert Engine.load(tmp_path / "engine").backend == "openvino"


def test_an_existing_engine_survives_a_failed_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "engine", random_bundle())
    before = read_engine_directory(tmp_path / "engine").manifest
    monkeypatch.setitem(THRESHOLDS, "bf16", replace(THRESHOLDS["bf16"], mask_iou=1.1))
    with refuses(ParityError, "parity.missed", "torch in bf16"):
        build(
            tmp_path / "engine",
            random_bundle(),
            ExportConfig("bf16", ("torch",), buckets=(1,)),
            phantoms(2),
            force=True,
        )
    assert read_engine_directory(tmp_path / "engine").manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_openvinos_bf16_falls_back_to_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bf16 is a hint for the whole graph, so keeping blocks in float32 would not help."""
    limits = THRESHOLDS["bf16"]
    monkeypatch.setitem(THRESHOLDS, "bf16", replace(limits, patch_focus_difference=0.0))
    monkeypatch.setattr(
        "medfocus.export.openvino.compute_precision.best_compute_precision", lambda dtype: "bf16"
    )
    manifest = build(
        tmp_path / "engine",
        random_bundle(),
        ExportConfig("fp16", ("openvino",), buckets=(1,)),
        phantoms(2),
    )
    assert manifest.backends == {"openvino": "fp32"}
    assert Engine.load(tmp_path / "engine").backend == "openvino"


def test_int8_is_smaller_and_passes(tmp_path: Path) -> None:
    bundle = random_bundle()
    int8 = ExportConfig("fp32", ("openvino",), int8=True, buckets=(1, 4))
    manifest = build(tmp_path / "engine", bundle, int8, phantoms(8))
    assert manifest.backends == {"openvino": "int8"}
    names = set(manifest.files)
    assert {"segmenter.int8.xml", "segmenter.int8.bin", "classifier.int8.xml"} <= names
    assert not any(name.endswith(".onnx") for name in names), "nothing reads it"
    weights = sum(tensor.numel() for tensor in bundle.clip.parameters())
    assert manifest.files["classifier.int8.bin"].bytes < 1.7 * weights, "4 bytes in float32"
    assert Engine.load(tmp_path / "engine").backend == "openvino"
    graph = openvino.Core().read_model(tmp_path / "engine/segmenter.int8.xml")
    readers = [
        reader.get_node().get_type_name()
        for node in graph.get_ops()
        if node.get_type_name() == "Softmax"
        for reader in node.output(0).get_target_inputs()
    ]
    assert readers == 13 * ["MatMul"], "the softmax's output is not quantised"
    graph = openvino.Core().read_model(tmp_path / "engine/classifier.int8.xml")
    shapes = [
        tuple(node.shape)
        for node in graph.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8
    ]
    width = bundle.clip.width
    assert shapes.count((4 * width, width)) == bundle.clip.layers - 1, "the last stays float32"


def test_a_smaller_segmenter_is_compared_with_the_native_size(tmp_path: Path) -> None:
    """The same weights at the same size agree; at half the size they find other regions."""
    bundle = random_bundle()
    half = Segmenter("medfocus_tiny", 128).eval()
    half.load_state_dict(bundle.segmenter.state_dict())
    smaller = replace(bundle, segmenter=half, native_segmenter=bundle.segmenter)
    with refuses(ParityError, "parity.segmenter_size", "segmenter size 128") as caught:
        build(tmp_path / "engine", smaller, ExportConfig(buckets=(1,)), phantoms(4))
    assert "mask_iou" in caught.value.problem
    same = replace(bundle, native_segmenter=bundle.segmenter)
    manifest = build(tmp_path / "engine", same, ExportConfig(buckets=(1,)), phantoms(4))
    assert manifest.parity["segmenter size"].mask_iou == 1.0
    assert manifest.backends == {"torch": "fp32"}


def test_tensorrts_plans_are_built_and_checked(tmp_path: Path) -> None:
    """With a stand-in for TensorRT that computes with ONNX Runtime."""
    with installed(tmp_path / "cache"):
        tensorrt = ExportConfig("fp32", ("tensorrt",), buckets=(1, 4))
        manifest = build(tmp_path / "engine", random_bundle(), tensorrt, phantoms(4))
    assert manifest.backends == {"tensorrt": "fp32"}
    assert manifest.parity["tensorrt"].embedding_cosine > 0.99999
    plans = sorted(name for name in manifest.files if name.startswith("plans/"))
    assert [name.rpartition("/")[2] for name in plans] == ["classifier.plan", "segmenter.plan"]


def test_the_plugins_graph_is_in_the_engines_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    def check(staging: Path, *_: object, classifier: Path, attention: str, **__: object) -> None:
        assert attention == "plugin"
        assert classifier.parent != staging, "not part of the engine"
        nodes = [n for n in ir.load(classifier).graph if n.op_type == "masked_attention"]
        assert len(nodes) == 5, "every layer except the last"
        for node in nodes:
            assert [value.dtype for value in node.inputs if value is not None] == [
                ir.DataType.FLOAT16,
                ir.DataType.FLOAT,
            ]
        raise StopError

    monkeypatch.setattr("medfocus.export.tensorrt.build_plans.build_plans", check)
    with installed(tmp_path / "cache"):
        plugin = ExportConfig("fp16", ("tensorrt",), buckets=(1,), trt_attention="plugin")
        with pytest.raises(StopError):
            build(tmp_path / "engine", random_bundle(), plugin, phantoms(2))
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with refuses(InputError, "input.too_few_images", "images") as caught:
        build(
            tmp_path / "engine",
            random_bundle(),
            ExportConfig("fp32", ("onnx",), buckets=(8,)),
            phantoms(3),
        )
    assert "8" in caught.value.problem


def test_the_graph_that_fails() -> None:
    assert gate._failed_graphs(["mask_iou 0.5 (at least 0.9)"]) == ("segmenter",)
    assert gate._failed_graphs(["embedding_cosine 0.5 (at least 0.9)"]) == ("classifier",)
    assert gate._failed_graphs(["top1_agreement 0.5 (at least 0.9)"]) == (
        "segmenter",
        "classifier",
    )
