"""The ONNX Runtime backend: the exported graphs on a CPU or on CUDA, with no torch installed."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory, load_bytes
from medfocus.engine.artifact.layout import CLASSIFIER_ONNX, SEGMENTER_ONNX, weights_of
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.device import device_name, parsed, require_gpu
from medfocus.engine.runtime import cuda
from medfocus.engine.runtime.buffer_pool import BufferPool, host_buffer_pool
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError
from medfocus.settings import Device

log = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend:
    """Both graphs in ONNX Runtime, in the precision that they were exported in.

    Args:
        directory: an engine directory that holds the two .onnx files.
        device: `auto` takes CUDA if this ONNX Runtime supports it.

    Raises:
        InputError: a GPU that is not there, or that this ONNX Runtime does not support or cannot
            start; or an engine in bf16 on a CPU.
        EngineDirectoryError: a file is missing.
    """

    name = "onnxruntime"

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        self.device, self.ordinal = _device(device, directory.graph(CLASSIFIER_ONNX))
        if self.device == "cpu" and directory.manifest.precision.dtype == "bf16":
            raise InputError(
                "backend onnxruntime",
                "its CPU kernels do not support bf16, and this engine is bf16",
                "use openvino, or export with --fp16 or --fp32",
                code="backend.unsupported_precision",
            )
        self._segmenter = self._session(directory, SEGMENTER_ONNX)
        self._classifier = self._session(directory, CLASSIFIER_ONNX)

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

    def _session(self, directory: EngineDirectory, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the warnings are about its own optimisations
        # Read, not mapped as ONNX Runtime would: a mapped file that is overwritten in place changes
        # the weights, and one that is cut short ends the process.
        path, weights = directory.graph(name), weights_of(name)
        data = load_bytes(directory, weights)
        options.add_external_initializers_from_files_in_memory([weights], [data], [len(data)])
        return _start(path, options, self.device, self.ordinal)

    def _run(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[Any]]
    ) -> list[Any]:
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for output in session.get_outputs():
            binding.bind_output(output.name, self.device, self.ordinal)
        session.run_with_iobinding(binding)
        arrays: list[Any] = binding.copy_outputs_to_cpu()
        return arrays


def _start(
    path: Path, options: onnxruntime.SessionOptions, device: Device, ordinal: int
) -> onnxruntime.InferenceSession:
    # CUDA needs the CPU provider for operators on shapes. TF32 is off: what the graph has in
    # float32 is to be computed in float32.
    cpu, wanted = PROVIDERS["cpu"], PROVIDERS[device]
    on_gpu = (wanted, {"use_tf32": "0", "device_id": str(ordinal)})
    providers = [cpu] if wanted == cpu else [on_gpu, cpu]
    load = partial(onnxruntime.InferenceSession, path, options, providers=providers)
    if device == "cpu":
        session = load()
    else:
        # It makes its GPU the loading thread's current one, for good; so not in the caller's
        # thread, who may use another.
        with ThreadPoolExecutor(1) as apart:
            session = apart.submit(load).result()
    # ONNX Runtime only warns about a provider that cannot start, and takes the next.
    if session.get_providers()[0] != wanted:
        raise InputError(
            f"device {device_name(device, ordinal)}",
            f"ONNX Runtime could not start {wanted} and took {session.get_providers()[0]}",
            "install the CUDA libraries that this onnxruntime-gpu was built for, or use cpu",
            code="device.unavailable",
        )
    return session


def _device(device: str, graph: Path) -> tuple[Device, int]:
    """`auto` takes CUDA if a graph can be loaded there; an available provider may fail to start."""
    kind, ordinal = parsed(device)
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if kind == "cuda":
            raise InputError(
                f"device {device}",
                "this ONNX Runtime was built without CUDA",
                "replace onnxruntime by onnxruntime-gpu, or use cpu",
                code="device.unavailable",
            )
        return "cpu", 0
    if kind == "auto":
        try:
            _start(graph, onnxruntime.SessionOptions(), "cuda", ordinal)
        except InputError as error:
            log.warning("%s", error)
            return "cpu", 0
    if ordinal:  # ONNX Runtime has no count of its own, and a failure that names none
        require_gpu(ordinal, cuda.count(), "CUDA")
    return "cpu" if kind == "cpu" else "cuda", ordinal
