"""The two graphs as ONNX: dynamic batch and prompts, everything that answers inside."""

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

NAME_SCOPES = "pkg.torch.onnx.name_scopes"  # the modules that a node lies in, as torch writes them
OPSET = 22  # the first in which Conv takes bfloat16


def segmenter_onnx(graph: SegmenterGraph) -> ir.Model:
    """The segmenter's graph: inputs (batch, 3, S, S), (batch, prompts, points, 2) and its labels.

    Exported from an example of two images, prompts and points: a size of one would be taken for
    a constant.
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
    """What depends on weights alone, computed now and not by each runtime.

    Upstream interpolates the positional embeddings of the one image size in every call. A runtime
    that folds constants as it loads would do it instead, some of them slowly: OpenVINO took 84 s
    for sam2.1_hiera_tiny. And NNCF takes a weight as it is stored, not as it enters a product.
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
        translations: of more torch operators, where a runtime has its own kernel.
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
        # That axes share a name is meant.
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
    assert program is not None  # only the old exporter returns nothing
    _forget_sources(program.model)
    return program.model


def _forget_sources(model: ir.Model) -> None:
    """Take out where in whose source files each node comes from; module names stay."""
    for node in model.graph:
        for key in [key for key in node.metadata_props if key != NAME_SCOPES]:
            del node.metadata_props[key]
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        for output in node.outputs:
            output.metadata_props.clear()


def save(model: ir.Model, path: Path) -> None:
    """Write a graph to `<name>.onnx`, its weights to `<name>.onnx.data` beside it.

    Raises:
        EngineDirectoryError: the files cannot be written.
    """
    with writing(path.parent):
        ir.save(model, path, external_data=path.name + DATA_SUFFIX)


def save_checked(model: ir.Model, path: Path) -> None:
    """As `save`, and check the file as any reader would see it.

    Raises:
        EngineDirectoryError: the files cannot be written, or break ONNX's rules of form, types or
            shapes.
    """
    save(model, path)
    try:
        # By path: a model in memory may pass protobuf's limit of 2 GiB.
        onnx.checker.check_model(str(path), full_check=True)
    except (ValidationError, InferenceError) as error:
        raise EngineDirectoryError(
            str(path), f"is not valid ONNX ({error})", "report this with the versions in use"
        ) from error


def operators(path: Path) -> list[str]:
    """The kinds of operators in a graph, sorted; those of other domains as `domain::name`."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sorted({f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes})
