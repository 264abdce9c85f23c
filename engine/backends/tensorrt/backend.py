"""The TensorRT backend: one plan per graph, each with its own stream. No PyTorch."""

import re
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.device import parsed, require_gpu
from medfocus.engine.backends.tensorrt.library import (
    CLASSIFIER_PLAN,
    PLANS,
    SEGMENTER_PLAN,
    plan_folder,
    require_tensorrt,
)
from medfocus.engine.runtime import cuda
from medfocus.engine.runtime.buffer_pool import BATCHES_ON_GPU, BufferPool
from medfocus.engine.runtime.execution import ThreadStream
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.settings import Device


class TensorRTBackend:
    """Both graphs as plans for a GPU in this machine.

    Args:
        directory: an engine directory with plans for this GPU's architecture and this TensorRT.
        device: `auto`, `cuda` or a GPU's name.

    Raises:
        InputError: `cpu`, or a GPU that is not there; TensorRT or CUDA's bindings are not
            installed.
        DeviceError: there is no GPU, or it fails.
        EngineDirectoryError: no plans for this GPU and version, or TensorRT cannot load them.
    """

    name = "tensorrt"

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        kind, self.ordinal = parsed(device)
        if kind == "cpu":
            raise InputError(
                "device cpu", "TensorRT runs on GPUs", "use cuda or auto", code="device.unavailable"
            )
        self.device: Device = "cuda"
        version = require_tensorrt()
        require_gpu(self.ordinal, cuda.count(), "CUDA")
        self._gpu = cuda.Gpu(self.ordinal)
        self._memory = ExitStack()  # of all batch buffers
        with self._gpu.current():
            folder = plan_folder(cuda.architecture(), version)
            _require_plans(directory, folder)
            # Imported here, for it imports TensorRT.
            from medfocus.engine.backends.tensorrt.plan_runner import PlanRunner

            self._segmenter = PlanRunner(directory, f"{folder}/{SEGMENTER_PLAN}")
            self._classifier = PlanRunner(directory, f"{folder}/{CLASSIFIER_PLAN}")

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        with self._gpu.current():
            found = self._segmenter.run(image=image, points=points, labels=labels)
        return found["focus_logits"], found["score"]

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        with self._gpu.current():
            found = self._classifier.run(
                image=image, focus_logits=focus_logits, rows=rows, cols=cols
            )
        focused = found["focused"]
        return found["embedding"], found["probabilities"], found["patch_focus"], focused

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """See `Backend.buffer_pool`."""
        from medfocus.engine.backends.tensorrt.batch_buffers import PlanBatchBuffers

        sizes = [*(size for size in manifest.buckets if size < images), images]
        with self._gpu.current():
            buffers = [
                PlanBatchBuffers(
                    self._segmenter, self._classifier, manifest, images, self._gpu, self._memory
                )
                for _ in range(BATCHES_ON_GPU)
            ]
            for one in buffers:
                one.capture(sizes)
        return BufferPool([*buffers], ThreadStream("segment"), ThreadStream("classify"))

    def close(self) -> None:
        """See `Backend.close`."""
        with self._gpu.current():
            self._segmenter.close()
            self._classifier.close()
            self._memory.close()


def _require_plans(directory: EngineDirectory, folder: str) -> None:
    wanted = {f"{folder}/{SEGMENTER_PLAN}", f"{folder}/{CLASSIFIER_PLAN}"}
    if not wanted <= set(directory.manifest.files):
        matches = (re.match(rf"({PLANS}/[^/]+)/", name) for name in directory.manifest.files)
        found = sorted({match[1] for match in matches if match})
        raise EngineDirectoryError(
            str(directory.path / folder),
            f"does not exist; this engine has {', '.join(found) or 'no plans'}",
            "export the engine with --targets tensorrt on this machine, or use another backend",
            code="engine.no_plans",
        )
