"""The two graphs as ONNX, with dynamic batch and prompts and the whole computation inside."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from torch import Tensor, nn
from torch.export import Dim

from medfocus.engine.artifact.layout import DATA_SUFFIX
from medfocus.engine.artifact.writing import writing
from medfocus.errors import EngineDirectoryError
from medfocus.export.onnx.translations import ATTENTION, Translations
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.sam2.segmenter import Segmenter

SEGMENTER_INPUTS = ("image", "points", "labels")
SEGMENTER_OUTPUTS = ("focus_logits", "score")
CLASSIFIER_INPUTS = ("image", "focus_logits", "rows", "cols")
CLASSIFIER_OUTPUTS = ("embedding", "probabilities", "patch_focus", "focused")

NAME_SCOPES = "pkg.torch.onnx.name_scopes"  # the modules that a node belongs to, written by torch
OPSET = 22  # the first in which Conv takes bfloat16


def segmenter_onnx(graph: SegmenterGraph) -> ir.Model:
    """The segmenter's graph: inputs (batch, 3, S, S), (batch, prompts, points, 2) and its labels.

    The example has two images, prompts and points: the exporter takes a size of one for a
    constant.
    """
    size = graph.segmenter.image_size
    example = (
        torch.zeros(2, 3, size, size),
        torch.zeros(2, 2, 2, 2),
        torch.zeros(2, 2, 2, dtype=torch.int32),
    )
    batch, prompts, points = Dim("batch"), Dim("prompts"), Dim("points")
    prompted = {0: batch, 1: prompts, 2: points}
    axes = ({0: batch}, prompted, prompted)
    with _constants(graph.segmenter):
        return _export(graph, example, axes, SEGMENTER_INPUTS, SEGMENTER_OUTPUTS)


@contextmanager
def _constants(segmenter: Segmenter) -> Iterator[None]:
    """Compute what depends only on weights once, instead of in each runtime.

    Upstream interpolates the positional embeddings in every call, although the image size is
    fixed. Runtimes that fold constants at load time would do it then, some of them slowly:
    OpenVINO took 84 s for sam2.1_hiera_tiny. And NNCF quantises a weight as it is stored, not as
    it enters a product.
    """
    trunk, prompts = segmenter.image_encoder.trunk, segmenter.sam_prompt_encoder
    decoder = segmenter.sam_mask_decoder
    grid = segmenter.image_size // 4
    with torch.no_grad():
        hiera, dense = trunk._get_pos_embed((grid, grid)), prompts.get_dense_pe()
        pyramid = [(weight.detach(), bias.detach()) for weight, bias in segmenter.pyramid()]
        products = decoder.products()
    trunk._get_pos_embed, prompts.get_dense_pe = lambda _: hiera, lambda: dense
    segmenter.pyramid, decoder.products = lambda: pyramid, lambda: products  # type: ignore[method-assign]
    try:
        yield
    finally:
        del trunk._get_pos_embed, prompts.get_dense_pe
        del segmenter.pyramid, decoder.products


def classifier_onnx(
    graph: ClassifierGraph, mask_size: int, translations: Translations | None = None
) -> ir.Model:
    """The classifier's graph, pooling to probabilities; every input's first dimension is the batch.

    Args:
        graph: in evaluation mode.
        mask_size: h and w of the focus logits.
        translations: for further torch operators, where a runtime has its own kernel.
    """
    size = graph.clip.image_size
    example = (
        torch.zeros(2, 3, size, size),
        torch.zeros(2, mask_size, mask_size),
        torch.zeros(2, graph.cells, mask_size),
        torch.zeros(2, graph.cells, mask_size),
    )
    axes = ({0: Dim("batch")},) * 4
    return _export(graph, example, axes, CLASSIFIER_INPUTS, CLASSIFIER_OUTPUTS, translations)


@torch.no_grad()
def _export(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    axes: tuple[dict[int, Any], ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    translations: Translations | None = None,
) -> ir.Model:
    with warnings.catch_warnings():
        # Axes share names on purpose.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            dynamic_shapes=axes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            custom_translation_table=ATTENTION | (translations or {}),
            verbose=False,
        )
    assert program is not None  # only the old exporter returns None
    _remove_source_paths(program.model)
    return program.model


def _remove_source_paths(model: ir.Model) -> None:
    """Remove the metadata that contains paths of source files; module names stay."""
    for node in model.graph:
        for key in [key for key in node.metadata_props if key != NAME_SCOPES]:
            del node.metadata_props[key]
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()


def save(model: ir.Model, path: Path) -> None:
    """Write a graph to `<name>.onnx`, and its weights to `<name>.onnx.data` in the same folder.

    Raises:
        EngineDirectoryError: the files cannot be written.
    """
    with writing(path.parent):
        ir.save(model, path, external_data=path.name + DATA_SUFFIX)


def save_checked(model: ir.Model, path: Path) -> None:
    """Save a graph as `save` does, and validate the file.

    Raises:
        EngineDirectoryError: the files cannot be written, or are not valid ONNX in structure,
            types or shapes (`engine.invalid_onnx`).
    """
    save(model, path)
    try:
        # By path: a model in memory may exceed protobuf's limit of 2 GiB.
        onnx.checker.check_model(str(path), full_check=True)
    except (ValidationError, InferenceError) as error:
        raise EngineDirectoryError(
            str(path),
            f"is not valid ONNX ({error})",
            "report this with the versions of torch and onnxscript",
            code="engine.invalid_onnx",
        ) from error


def operators(path: Path) -> list[str]:
    """The operator types in a graph, sorted; those of other domains as `domain::name`."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sorted({f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes})
