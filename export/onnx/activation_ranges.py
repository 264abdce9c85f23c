"""Measures activations block by block, to decide which blocks stay in float32."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from medfocus.export.onnx.graphs import save
from medfocus.export.onnx.half_precision import FLOAT32_SCOPES, HALF, block_of, is_exact


def activation_ranges(
    path: Path, graph_name: str, feeds: Iterable[dict[str, NDArray[Any]]], scratch: Path
) -> dict[str, float]:
    """The largest absolute output of each block's matrix products and convolutions.

    Args:
        path: a float32 graph.
        graph_name: `segmenter` or `classifier`.
        feeds: inputs by name, one batch each.
        scratch: a folder for a copy of the graph that outputs the maxima.

    Returns:
        Maxima by `<graph>: <module>`, as `Precision.float32_blocks` names blocks.

    Raises:
        EngineDirectoryError: the copy cannot be written.
    """
    model = ir.load(path)
    outputs: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type in HALF and not is_exact(node, FLOAT32_SCOPES):
            absolute = ir.node("Abs", [node.outputs[0]])
            largest = ir.node("ReduceMax", [absolute.outputs[0]], {"keepdims": 0})
            value = largest.outputs[0]
            value.name, value.dtype = f"range_{len(outputs)}", ir.DataType.FLOAT
            value.shape = ir.Shape([])
            model.graph.extend([absolute, largest])
            outputs[value.name] = f"{graph_name}: {block_of(node)}"
            model.graph.outputs.append(value)
    measured = scratch / f"{graph_name}-ranges.onnx"
    save(model, measured)
    session = onnxruntime.InferenceSession(measured, providers=["CPUExecutionProvider"])
    ranges = dict.fromkeys(outputs.values(), 0.0)
    for feed in feeds:
        found = session.run(list(outputs), feed)
        for block, value in zip(outputs.values(), found, strict=True):
            ranges[block] = float(np.fmax(ranges[block], value))
    return ranges
