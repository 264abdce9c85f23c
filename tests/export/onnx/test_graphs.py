"""The exported graphs in ONNX Runtime, compared with the PyTorch modules they come from."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from medfocus.export.onnx.graphs import (
    CLASSIFIER_INPUTS,
    CLASSIFIER_OUTPUTS,
    SEGMENTER_INPUTS,
    SEGMENTER_OUTPUTS,
    operators,
)
from medfocus.models.graphs import ClassifierGraph
from medfocus.settings import FocusMode
from tests.conftest import OnnxFile
from tests.export.onnx.exported import MASK, MODES, classifier, segmenter


def segmenter_inputs(images: int, prompts: int, points: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(images + 10 * prompts + 100 * points)
    labels = torch.arange(images * prompts * points) % 3 - 1  # no point, background, foreground
    labels[::points] = 1
    return (
        torch.randn(images, 3, 256, 256, generator=generator),
        256 * torch.rand(images, prompts, points, 2, generator=generator),
        labels.reshape(images, prompts, points).int(),
    )


def classifier_inputs(graph: ClassifierGraph, images: int) -> tuple[torch.Tensor, ...]:
    """The first image has no region."""
    generator = torch.Generator().manual_seed(images)
    size = graph.clip.image_size
    logits = 6 * torch.randn(images, MASK, MASK, generator=generator)
    logits[0] = -32.0
    weights = torch.rand(2, images, graph.cells, MASK, generator=generator) ** 8
    rows, cols = weights / weights.sum(-1, keepdim=True)
    return torch.randn(images, 3, size, size, generator=generator), logits, rows, cols


def run(
    path: Path, names: tuple[str, ...], arguments: tuple[torch.Tensor, ...]
) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(
        None, {name: tensor.numpy() for name, tensor in zip(names, arguments, strict=True)}
    )
    return found


def relative(found: NDArray[np.float32], expected: torch.Tensor) -> float:
    difference = np.abs(found.astype(np.float64) - expected.double().numpy()).max()
    return float(difference / expected.double().abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_classifier_equals_pytorch(mode: FocusMode, onnx_file: OnnxFile) -> None:
    graph, path = classifier(mode), onnx_file("classifier", mode)
    for images in (1, 2, 5):
        arguments = classifier_inputs(graph, images)
        with torch.inference_mode():
            expected = graph(*arguments)
        found = dict(zip(CLASSIFIER_OUTPUTS, run(path, CLASSIFIER_INPUTS, arguments), strict=True))
        assert relative(found["embedding"], expected.embedding) <= 1e-5
        assert np.abs(found["probabilities"] - expected.probabilities.numpy()).max() <= 1e-5
        assert np.abs(found["patch_focus"] - expected.patch_focus.numpy()).max() <= 1e-6
        assert (found["focused"] == expected.focused.numpy()).all()
        assert not found["focused"][0]
        assert found["focused"][1:].all() or mode == "none"


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_without_a_region_it_is_plain_clip_to_the_bit(mode: FocusMode, onnx_file: OnnxFile) -> None:
    for images in (1, 4):
        outputs = []
        image, *_ = classifier_inputs(classifier("none"), images)
        for kind in (mode, "none"):
            graph, path = classifier(kind), onnx_file("classifier", kind)
            _, logits, rows, cols = classifier_inputs(graph, images)
            nowhere = torch.full_like(logits, -32.0)
            found = run(path, CLASSIFIER_INPUTS, (image, nowhere, rows, cols))
            outputs.append(dict(zip(CLASSIFIER_OUTPUTS, found, strict=True)))
        for name in ("embedding", "probabilities", "focused"):
            assert (outputs[0][name] == outputs[1][name]).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["best", pytest.param("union", marks=pytest.mark.long)])
def test_the_segmenter_equals_pytorch(policy: str, onnx_file: OnnxFile) -> None:
    graph, path = segmenter(policy), onnx_file("segmenter", policy)
    for shape in ((1, 1, 1), (2, 3, 2), (1, 9, 1), (3, 1, 4)):
        arguments = segmenter_inputs(*shape)
        with torch.inference_mode():
            expected = graph(*arguments)
        logits, score = run(path, SEGMENTER_INPUTS, arguments)
        assert (expected.score > 0).all(), "without a region in every image nothing is compared"
        if policy == "best":
            assert relative(logits, expected.focus_logits) <= 1e-5
        # A union's logit comes from a probability near 1, where float32 is coarse.
        probability = torch.from_numpy(logits).sigmoid()
        torch.testing.assert_close(probability, expected.focus_logits.sigmoid(), atol=1e-5, rtol=0)
        assert relative(score, expected.score) <= 1e-5


@pytest.mark.slow
def test_axes_have_the_same_names_in_all_inputs_and_outputs(
    onnx_file: OnnxFile,
) -> None:
    shapes = {}
    for stem, path in (
        ("segmenter", onnx_file("segmenter", "best")),
        ("classifier", onnx_file("classifier", "none")),
    ):
        graph = onnx.load(path, load_external_data=False).graph
        for value in [*graph.input, *graph.output]:
            dimensions = value.type.tensor_type.shape.dim
            shapes[stem, value.name] = [d.dim_param or d.dim_value for d in dimensions]
    prompted = ["batch", "prompts", "points"]
    assert shapes == {
        ("segmenter", "image"): ["batch", 3, 256, 256],
        ("segmenter", "points"): [*prompted, 2],
        ("segmenter", "labels"): prompted,
        ("segmenter", "focus_logits"): ["batch", 64, 64],
        ("segmenter", "score"): ["batch"],
        ("classifier", "image"): ["batch", 3, 112, 112],
        ("classifier", "focus_logits"): ["batch", 64, 64],
        ("classifier", "rows"): ["batch", 14, 64],
        ("classifier", "cols"): ["batch", 14, 64],
        ("classifier", "embedding"): ["batch", 128],
        ("classifier", "probabilities"): ["batch", 3],
        ("classifier", "patch_focus"): ["batch", 14, 14],
        ("classifier", "focused"): ["batch"],
    }
    assert set(SEGMENTER_OUTPUTS) == {name for stem, name in shapes if stem == "segmenter"} - {
        *SEGMENTER_INPUTS
    }


@pytest.mark.slow
def test_operators_are_of_the_standard_domain(onnx_file: OnnxFile) -> None:
    path = onnx_file("segmenter", "best")
    folder = b"/" + Path(__file__).parts[1].encode()
    assert folder not in path.read_bytes(), "no paths of this machine"
    assert b".py" not in path.read_bytes()
    found = operators(path)
    assert found == sorted(set(found))
    assert not [name for name in found if "::" in name or name in ("OneHot", "NonZero", "Loop")]
    assert "Split" not in found, "OpenVINO runs its slow reference implementation of it"
    # No constant computation is left to a runtime.
    assert "Cos" in found, "the positions of the prompts"
    assert "Resize" not in found, "the pyramid adds by broadcasting"
