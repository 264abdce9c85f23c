"""The ONNX Runtime backend: the exported graphs on a CPU or on CUDA, with no torch installed."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.layout import CLASSIFIER_ONNX, SEGMENTER_ONNX
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.runtime.buffer_pool import BufferPool, host_buffer_pool
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError
from medfocus.settings import Device

log = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend:
    """Both graphs in ONNX Runtime, in the precision that is written into them.

    Args:
        directory: an engine directory that holds the two .onnx files.
        device: `auto` takes CUDA where this ONNX Runtime has it.

    Raises:
        InputError: `cuda` where this ONNX Runtime has none or cannot start it, or bf16 on a CPU.
        EngineDirectoryError: a file is missing.
    """

    name = "onnxruntime"

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        self.device = _device(device, directory.graph(CLASSIFIER_ONNX))
        if self.device == "cpu" and directory.manifest.precision.dtype == "bf16":
            raise InputError(
                "backend onnxruntime",
                "its CPU kernels do not know bf16, and this engine is bf16",
                "use openvino, or export with --fp16 or --fp32",
            )
        self._segmenter = self._session(directory.graph(SEGMENTER_ONNX))
        self._classifier = self._session(directory.graph(CLASSIFIER_ONNX))

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        focus_logits, score = self._run(
            self._segmenter, {"image": image, "points": points, "labels": labels}
        )
        return focus_logits, score

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        embedding, probabilities, patch_focus, focused = self._run(
            self._classifier,
            {"image": image, "focus_logits": focus_logits, "rows": rows, "cols": cols},
        )
        return embedding, probabilities, patch_focus, focused

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """See `Backend.buffer_pool`."""
        return host_buffer_pool(self, self.device, manifest, images)

    def close(self) -> None:
        """See `Backend.close`."""
        del self._segmenter, self._classifier

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings tell users of optimisations
        wanted = PROVIDERS[self.device]
        return _start(path, options, wanted)

    def _run(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[Any]]
    ) -> list[Any]:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for output in session.get_outputs():
            binding.bind_output(output.name, self.device)
        session.run_with_iobinding(binding)
        arrays: list[Any] = binding.copy_outputs_to_cpu()
        return arrays


def _start(
    path: Path, options: onnxruntime.SessionOptions, wanted: str
) -> onnxruntime.InferenceSession:
    # The CPU stands behind CUDA for what runs on shapes; without it nothing would load. And a
    # float32 in the graph is meant: no TF32.
    cpu = PROVIDERS["cpu"]
    providers = [cpu] if wanted == cpu else [(wanted, {"use_tf32": "0"}), cpu]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    # A provider that cannot start is left out with no more than a warning.
    if session.get_providers()[0] != wanted:
        raise InputError(
            "device cuda",
            f"ONNX Runtime could not start {wanted} and took {session.get_providers()[0]}",
            "install the CUDA libraries that this onnxruntime-gpu was built for, or use cpu",
        )
    return session


def _device(device: str, graph: Path) -> Device:
    """`auto` takes CUDA where a graph can be loaded there: what is listed may not start."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise InputError(
                "device cuda",
                "this ONNX Runtime has no CUDA",
                "install onnxruntime-gpu in place of onnxruntime (not beside it), or use cpu",
            )
        return "cpu"
    if device == "auto":
        try:
            _start(graph, onnxruntime.SessionOptions(), PROVIDERS["cuda"])
        except InputError as error:
            log.warning("%s", error)
            return "cpu"
    return "cpu" if device == "cpu" else "cuda"
