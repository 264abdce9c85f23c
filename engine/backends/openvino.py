"""The OpenVINO backend: the exported graphs on a CPU, in bf16 or int8 where it has them."""

import logging
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from medfocus.engine.artifact import (
    CLASSIFIER_INT8,
    CLASSIFIER_ONNX,
    SEGMENTER_INT8,
    SEGMENTER_ONNX,
    EngineDirectory,
)
from medfocus.engine.backends import Array
from medfocus.engine.host import HostThreads
from medfocus.engine.manifest import Manifest
from medfocus.engine.memory import is_out_of_memory
from medfocus.engine.parity import Device
from medfocus.engine.ring import Ring, host_ring
from medfocus.errors import InputError

log = logging.getLogger(__name__)

# OpenVINO chooses the arithmetic by a hint, whatever types the graph has. In an int8 graph the
# hint is for what is not quantised.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Pixels that a stream takes at once, or one image: 4 of `tiny`. With more, activations outgrow a
# core's cache, and each stream keeps memory for them.
TURN = 2**18

Inputs = dict[str, NDArray[Any]]
Outputs = list[NDArray[Any]]


class OpenVinoBackend:
    """Both graphs in OpenVINO, in the arithmetic that the engine was checked with.

    Args:
        directory: an engine directory that holds the two .onnx files, or the int8 graphs.
        device: `auto` or `cpu`.

    Raises:
        InputError: another device.
        EngineDirectoryError: a file is missing.
    """

    name = "openvino"
    device: Device = "cpu"

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        if device == "cuda":
            raise InputError("device cuda", "openvino runs on the CPU here", "use cpu or auto")
        core = openvino.Core()
        checked = directory.manifest.backends[self.name]
        # Where this processor lacks bf16, float32 is the closer to the reference.
        arithmetic = checked
        if checked == "bf16" and not has_bf16(core):
            arithmetic = "fp32"
            log.warning("OpenVINO was checked in bf16, which this processor lacks: fp32 instead")
        files = (
            (SEGMENTER_INT8, CLASSIFIER_INT8)
            if arithmetic == "int8"
            else (SEGMENTER_ONNX, CLASSIFIER_ONNX)
        )
        most = directory.manifest.buckets[-1]
        self._segmenter, self._classifier = (
            _Graph(core, directory.graph(file), HINTS[arithmetic], most) for file in files
        )

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        focus_logits, score = self._segmenter.run(
            {"image": image, "points": points, "labels": labels}
        )
        return focus_logits, score

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        embedding, probabilities, patch_focus, focused = self._classifier.run(
            {"image": image, "focus_logits": focus_logits, "rows": rows, "cols": cols}
        )
        return embedding, probabilities, patch_focus, focused

    def ring(self, manifest: Manifest, images: int) -> Ring:
        """See `Backend.ring`."""
        for graph in (self._segmenter, self._classifier):
            graph.expect(images)
        return host_ring(self, manifest, images)

    def close(self) -> None:
        """See `Backend.close`."""
        for graph in (self._segmenter, self._classifier):
            graph.close()
        del self._segmenter, self._classifier


def has_bf16(core: openvino.Core) -> bool:
    """Whether OpenVINO finds bf16 arithmetic in this processor."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Graph:
    """A graph, compiled for one image on all cores, and once more where there are batches.

    The operators of a small model are too short to be worth sharing among cores. So parts of a
    batch run side by side, each on a stream of few cores, as many as OpenVINO chooses.

    Args:
        core: OpenVINO's.
        file: the graph.
        hint: the arithmetic.
        most: images that a batch may have; no more streams than that are worth their memory.
    """

    def __init__(self, core: openvino.Core, file: str | Path, hint: str, most: int) -> None:
        self._core, self._file, self._most = core, file, most
        self._hints: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": hint}
        self._whole = self._compiled(PERFORMANCE_HINT="LATENCY")
        self._alone = self._whole.create_infer_request()
        self._parted: openvino.CompiledModel | None = None
        self._streams = 0
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        self._threads: HostThreads | None = None

    def _compiled(self, **hints: str | int) -> openvino.CompiledModel:
        return self._core.compile_model(self._file, "CPU", self._hints | hints)

    def expect(self, images: int) -> None:
        """Be ready for batches of so many."""
        if images == 1 or self._streams:
            return  # none, or there already
        parted = self._compiled(
            PERFORMANCE_HINT="THROUGHPUT", PERFORMANCE_HINT_NUM_REQUESTS=self._most
        )
        self._streams = parted.get_property("NUM_STREAMS")
        if self._streams > 1:
            self._parted = parted
            for _ in range(self._streams):
                self._idle.put(parted.create_infer_request())
            self._threads = HostThreads(self._streams)

    def run(self, inputs: Inputs) -> Outputs:
        """All outputs of a batch, in memory of their own."""
        images = len(inputs["image"])
        self.expect(images)
        if images == 1 or self._threads is None:
            self._alone.infer(inputs, share_inputs=True)
            return _outputs(self._alone)
        rows, columns = inputs["image"].shape[-2:]
        turns = -(-images // (self._streams * max(1, TURN // (rows * columns))))
        size = -(-images // (self._streams * turns))
        parts: list[Future[Outputs]] = []
        try:
            for start in range(0, images, size):
                part = {name: array[start : start + size] for name, array in inputs.items()}
                parts.append(self._threads.submit(partial(self._run_part, part)))
        finally:
            wait(parts)  # all, also where one fails: the caller writes its inputs again
        errors = [error for part in parts if (error := part.exception()) is not None]
        if errors:
            self._release()
            raise next(filter(is_out_of_memory, errors), errors[0])
        return [np.concatenate(found) for found in zip(*(p.result() for p in parts), strict=True)]

    def _run_part(self, part: Inputs) -> Outputs:
        request = self._idle.get()
        try:
            request.start_async(part, share_inputs=True)
            request.wait()  # it runs on its stream's threads, which `infer` may not
            return _outputs(request)
        finally:
            self._idle.put(request)

    def _release(self) -> None:
        """Give back what runs keep for the next: after an error a smaller batch may want it."""
        for compiled in (self._whole, self._parted):
            if compiled is not None:
                compiled.release_memory()

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.close()


def _outputs(request: openvino.InferRequest) -> Outputs:
    # Copies: the request's own memory is written again by the next call.
    return [np.array(output.data) for output in request.output_tensors]
