"""int8 graphs for CPUs: weights and activations, by NNCF, calibrated on images."""

import io
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

# Before NNCF is imported: it reports every call to its maker's analytics service otherwise, and
# nothing leaves a hospital's machine unasked.
os.environ["NNCF_CI"] = "1"

import nncf
import numpy as np
import onnx_ir as ir
import openvino
from numpy.typing import NDArray

from medfocus.errors import EngineDirectoryError
from medfocus.export.onnx.half_precision import FLOAT32_SCOPES, block_of, is_exact, last_layer

nncf.set_log_level(logging.ERROR)
# NNCF brings in PyTorch's compiler of extensions, which warns where there is no CUDA.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

# How much of the activations' range the weights take over before a product: SmoothQuant's α (Xiao
# et al. 2023, whose value this is). NNCF's own 0.95 gave `tiny` a worst embedding cosine of 0.97.
SMOOTHING = 0.5


def focus_logits(segmenter: Path, feeds: Iterable[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
    """What a segmenter's graph answers, (B, h, w), to inputs of an image each."""
    compiled = openvino.Core().compile_model(segmenter, "CPU")
    return np.concatenate([compiled(feed)[0] for feed in feeds])


def quantise(
    source: Path,
    target: Path,
    feeds: Sequence[dict[str, NDArray[Any]]],
    spare_last_layer: bool = False,
) -> None:
    """Write an int8 graph. What half precision leaves in float32 outside of blocks stays so here.

    Args:
        source: a float32 .onnx file.
        target: the .xml file to write; its weights go into a .bin file of the same name.
        feeds: inputs by name, an image each, from which activation ranges are taken.
        spare_last_layer: it stays float32. CLIP's computes little but the one token that becomes
            the embedding, and nothing evens out what it rounds.

    Raises:
        EngineDirectoryError: the files cannot be written.
    """
    model = openvino.Core().read_model(source)
    nodes = list(ir.load(source).graph)
    spared_layer = last_layer(nodes) if spare_last_layer else None
    exact = {
        name
        for node in nodes
        if is_exact(node, FLOAT32_SCOPES) or block_of(node) == spared_layer
        for name in (node.name, *(output.name for output in node.outputs))
    }
    # OpenVINO names an operation after the node or its output, and its parts `<name>/<part>`.
    names = [op.get_friendly_name() for op in model.get_ops()]
    spared = [name for name in names if name.split("/")[0] in exact]
    assert spared, "OpenVINO names operations otherwise than it did"
    # Not validated: constants among them are no part of NNCF's graph.
    ignored = nncf.IgnoredScope(names=spared, validate=False)
    with redirect_stdout(io.StringIO()):  # its progress bars would run into ours
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
    except (OSError, RuntimeError) as error:  # OpenVINO's own for a disk that is full
        raise EngineDirectoryError(
            str(target.parent), f"cannot be written ({error})", "make room, or choose another place"
        ) from error
