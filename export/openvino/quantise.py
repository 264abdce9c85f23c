"""int8 graphs for CPUs: weights and activations quantised by NNCF, calibrated on images."""

import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import NDArray

from medfocus.errors import EngineDirectoryError
from medfocus.export.onnx.half_precision import FLOAT32_SCOPES, block_of, is_exact, last_layer

nncf.set_log_level(logging.ERROR)
# NNCF imports PyTorch's extension compiler, which warns where there is no CUDA.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

# How much of the activations' range is moved to the weights before a product: α of SmoothQuant
# (Xiao et al. 2023), with the paper's value. NNCF's default, 0.95, gave `tiny` a worst embedding
# cosine of 0.97.
SMOOTHING = 0.5


def focus_logits(segmenter: Path, feeds: Iterable[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
    """A segmenter graph's focus logits, (B, h, w), for inputs of one image each."""
    compiled = openvino.Core().compile_model(segmenter, "CPU")
    return np.concatenate([compiled(feed)[0] for feed in feeds])


def quantise(
    source: Path,
    target: Path,
    feeds: Sequence[dict[str, NDArray[Any]]],
    exclude_last_layer: bool = False,
) -> None:
    """Write an int8 graph; nodes outside every block stay float32, as in half precision.

    Args:
        source: a float32 .onnx file.
        target: the .xml file to write; its weights go into a .bin file of the same name.
        feeds: inputs by name, one image each, from which activation ranges are taken.
        exclude_last_layer: keep it in float32. CLIP's last layer computes little more than the
            token that becomes the embedding, and no later layer averages its rounding errors.

    Raises:
        EngineDirectoryError: the files cannot be written (`file.unwritable`).
    """
    model = openvino.Core().read_model(source)
    nodes = list(ir.load(source).graph)
    excluded_layer = last_layer(nodes) if exclude_last_layer else None
    exact = {
        name
        for node in nodes
        if is_exact(node, FLOAT32_SCOPES) or block_of(node) == excluded_layer
        for name in (node.name, *(output.name for output in node.outputs))
    }
    # OpenVINO names an operation after the node or its output, and suboperations `<name>/<suffix>`.
    names = [op.get_friendly_name() for op in model.get_ops()]
    excluded = [name for name in names if name.split("/")[0] in exact]
    assert excluded, "OpenVINO's naming of operations has changed"
    # Not validated, since the constants among them are not in NNCF's graph.
    ignored = nncf.IgnoredScope(names=excluded, validate=False)
    with redirect_stdout(io.StringIO()):  # its progress bars would mix with ours
        quantised = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
            ),
        )
    try:
        openvino.save_model(quantised, target, compress_to_fp16=False)
    except (OSError, RuntimeError) as error:  # RuntimeError is OpenVINO's for a full disk
        raise EngineDirectoryError(
            str(target.parent),
            f"cannot be written ({error})",
            "free disk space, or choose another place",
            code="file.unwritable",
        ) from error
