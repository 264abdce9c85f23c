"""The OpenVINO backend: the exported graphs on a CPU, in float32, bf16 or int8."""

import logging
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Type
from openvino import opset13 as opset

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.layout import (
    CLASSIFIER_INT8,
    CLASSIFIER_ONNX,
    SEGMENTER_INT8,
    SEGMENTER_ONNX,
)
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.device import parsed
from medfocus.engine.runtime.buffer_pool import BufferPool, host_buffer_pool
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError
from medfocus.settings import Device

log = logging.getLogger(__name__)

# OpenVINO takes the compute precision from a hint, whatever types the graph has. In an int8 graph
# the hint applies to the operators that are not quantised.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

_HALVES = (Type.f16, Type.bf16)
_FLOATS = (*_HALVES, Type.f32)


class OpenVinoBackend:
    """Both graphs in OpenVINO, in the precision that the engine was checked with.

    Args:
        directory: an engine directory with the two .onnx files, or the int8 graphs.
        device: `auto` or `cpu`.

    Raises:
        InputError: another device.
        EngineDirectoryError: a file is missing.
    """

    name = "openvino"
    device: Device = "cpu"
    ordinal = 0

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        if parsed(device)[0] == "cuda":
            problem, hint = "openvino runs on the CPU", "use cpu or auto"
            raise InputError(f"device {device}", problem, hint, code="device.unavailable")
        core = openvino.Core()
        # A mapped file that is overwritten in place changes the weights; cut short, it ends the
        # process.
        core.set_property({"ENABLE_MMAP": False})
        checked = directory.manifest.backends[self.name]
        # Without bf16 in this processor, float32: it is closer to the reference.
        precision = checked
        if checked == "bf16" and not has_bf16(core):
            precision = "fp32"
            log.warning("OpenVINO was checked in bf16, which this processor lacks: using fp32")
        quantised = precision == "int8"
        self._hints = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        names = {
            "segmenter": SEGMENTER_INT8 if quantised else SEGMENTER_ONNX,
            "classifier": CLASSIFIER_INT8 if quantised else CLASSIFIER_ONNX,
        }
        self._core = core
        self._models = {
            graph: in_float32(core.read_model(directory.graph(name)))
            for graph, name in names.items()
        }
        self._requests = {graph: self._compiled(graph) for graph in names}

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        focus_logits, score = self._run(
            "segmenter", {"image": image, "points": points, "labels": labels}
        )
        return focus_logits, score

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        embedding, probabilities, patch_focus, focused = self._run(
            "classifier",
            {"image": image, "focus_logits": focus_logits, "rows": rows, "cols": cols},
        )
        return embedding, probabilities, patch_focus, focused

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """See `Backend.buffer_pool`."""
        return host_buffer_pool(self, self.device, manifest, images)

    def close(self) -> None:
        """See `Backend.close`."""
        del self._models, self._requests

    def _compiled(self, graph: str) -> openvino.InferRequest:
        model = self._models[graph]
        return self._core.compile_model(model, "CPU", self._hints).create_infer_request()

    def _run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        if graph not in self._requests:
            self._requests[graph] = self._compiled(graph)
        try:
            outputs = self._requests[graph].infer(inputs, share_inputs=True)
        except RuntimeError:
            # A batch with too little memory leaves what it got reserved, and shapes and kernels
            # half made: smaller batches would fail too, in this graph and in the other. Both are
            # compiled again by the next call, when what this error holds is released.
            self._requests.clear()
            raise
        # Copies: the next call overwrites the request's own memory.
        return [np.array(outputs[index]) for index in range(len(outputs))]


def in_float32(model: openvino.Model) -> openvino.Model:
    """Make a graph float32 throughout; weights stay stored in their own types.

    OpenVINO computes in the precision of the hint, but a conversion between two operators prevents
    their fusion: in a graph of mixed precision it finds no attention to fuse.

    Args:
        model: changed in place.

    Returns:
        `model`.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Constant" and node.get_element_type() in _HALVES:
            readers = node.output(0).get_target_inputs()
            source = opset.convert(node, "f32").output(0)
        elif kind == "Convert" and node.get_element_type() in _FLOATS:
            readers = node.output(0).get_target_inputs()
            source = node.input_value(0)
            if source.get_element_type() not in _FLOATS:
                source = opset.convert(source, "f32").output(0)
        else:
            continue
        for reader in readers:
            reader.replace_source_output(source)
    model.validate_nodes_and_infer_types()
    return model


def has_bf16(core: openvino.Core) -> bool:
    """Whether this processor supports bf16, according to OpenVINO."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
