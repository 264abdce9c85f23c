"""The PyTorch backend: the original graphs, in half precision through autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, HEAD_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.device import parsed, require_gpu
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers, captures_of
from medfocus.engine.backends.torch.cuda_stream import CudaStream
from medfocus.engine.backends.torch.exact_convolutions import ExactConvolutions
from medfocus.engine.backends.torch.half_weights import store_half
from medfocus.engine.runtime.buffer_pool import BATCHES_ON_GPU, BufferPool, host_buffer_pool
from medfocus.engine.runtime.graphs import Array
from medfocus.models.clip.adapter import PROMPTS
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.graphs import (
    ClassifierGraph,
    ClassifierOutput,
    SegmenterGraph,
    SegmenterOutput,
)
from medfocus.models.head import graph_tensors
from medfocus.models.sam2.segmenter import Segmenter
from medfocus.models.weights import load_strictly
from medfocus.settings import Device

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchBackend:
    """Both graphs on one device.

    In half precision the residual stream is float32; matrix products run in half through autocast,
    and their weights are stored in half. The precision policy cannot be applied per block here: a
    graph with any block in float32 runs in float32 as a whole.

    Args:
        directory: an engine directory with the three .safetensors files.
        device: `auto` takes CUDA if there is a CUDA device.

    Raises:
        InputError: a CUDA device that is not there.
        EngineDirectoryError: a file is missing or was changed.
        WeightsError: tensors that do not fit the manifest's architectures.
    """

    name = "torch"

    def __init__(self, directory: EngineDirectory, device: str) -> None:
        kind, self.ordinal = parsed(device)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "cuda":
            require_gpu(self.ordinal, count, "torch")
        self.device: Device = "cuda" if count and kind != "cpu" else "cpu"
        self._place = torch.device(f"cuda:{self.ordinal}" if self.device == "cuda" else "cpu")
        self._precision = DTYPES[directory.manifest.backends[self.name]]
        self._float32 = {
            block.partition(":")[0] for block in directory.manifest.precision.float32_blocks
        }
        self._segmenter, self._classifier = _load_segmenter(directory), _load_classifier(directory)
        for graph, module in (("segmenter", self._segmenter), ("classifier", self._classifier)):
            if self._is_half(graph):
                store_half(module, self._precision)
            module.to(self._place)

    @torch.inference_mode()
    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """See `Backend.segment`."""
        output = self.segment_tensors(*self._tensors(image, points, labels))
        focus_logits, score = (tensor.float().cpu().numpy() for tensor in output)
        return focus_logits, score

    @torch.inference_mode()
    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """See `Backend.classify`."""
        output = self.classify_tensors(*self._tensors(image, focus_logits, rows, cols))
        embedding, probabilities, patch_focus = (t.float().cpu().numpy() for t in output[:3])
        return embedding, probabilities, patch_focus, output.focused.cpu().numpy()

    def segment_tensors(self, image: Tensor, points: Tensor, labels: Tensor) -> SegmenterOutput:
        """As `segment`, on the device."""
        with self._current(), self._autocast("segmenter"), self._exact_float32():
            found: SegmenterOutput = self._segmenter(image, points, labels)
        return found

    def classify_tensors(
        self, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
    ) -> ClassifierOutput:
        """As `classify`, on the device."""
        with self._current(), self._autocast("classifier"), self._exact_float32():
            found: ClassifierOutput = self._classifier(image, focus_logits, rows, cols)
        return found

    @property
    def embedding_size(self) -> int:
        """E, numbers of an embedding."""
        return self._classifier.clip.embedding_size

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """See `Backend.buffer_pool`."""
        if self.device == "cpu":
            return host_buffer_pool(self, self.device, manifest, images)
        with self._current():  # streams, pinned memory and CUDA graphs belong to this GPU
            buffers = [
                TorchBatchBuffers(self, manifest, images, self._place)
                for _ in range(BATCHES_ON_GPU)
            ]
            sizes = [*(size for size in manifest.buckets if size < images), images]
            captures = captures_of(manifest)
            for one in buffers:
                one.capture(sizes, captures)
            torch.cuda.synchronize()  # weights and buffers were written on the default stream
            return BufferPool([*buffers], CudaStream("segment"), CudaStream("classify"))

    def close(self) -> None:
        """See `Backend.close`."""
        del self._segmenter, self._classifier

    def _current(self) -> AbstractContextManager[object]:
        """Make this backend's GPU the calling thread's: Triton and cuBLAS use the current one."""
        return torch.cuda.device(self._place) if self.device == "cuda" else nullcontext()

    def _is_half(self, graph: str) -> bool:
        return self._precision is not torch.float32 and graph not in self._float32

    def _autocast(self, graph: str) -> AbstractContextManager[None]:
        half = self._is_half(graph)
        dtype = self._precision if half else torch.bfloat16  # autocast does not accept float32
        # No weight cache: allocated during a capture, it would belong to the CUDA graph.
        return torch.autocast(self.device, dtype, enabled=half, cache_enabled=False)

    def _exact_float32(self) -> AbstractContextManager[object]:
        return ExactConvolutions() if self.device == "cuda" else nullcontext()

    def _tensors(self, *arrays: NDArray[Any]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self._place) for array in arrays]


def _load_segmenter(directory: EngineDirectory) -> SegmenterGraph:
    manifest = directory.manifest
    segmenter = Segmenter(manifest.models.sam2.architecture, manifest.models.sam2.image_size)
    state = _tensors(directory, SEGMENTER_WEIGHTS)
    load_strictly(segmenter, state, str(directory.file(SEGMENTER_WEIGHTS)))
    return SegmenterGraph(segmenter, manifest.selection).eval()


def _load_classifier(directory: EngineDirectory) -> ClassifierGraph:
    manifest = directory.manifest
    state = _tensors(directory, CLASSIFIER_WEIGHTS)
    prompts = state[PROMPTS].shape[1] if PROMPTS in state else 0
    clip = FocusCLIP(build_vision_tower(manifest.models.clip.architecture), prompts)
    load_strictly(clip, state, str(directory.file(CLASSIFIER_WEIGHTS)))
    normalisation = manifest.preprocessing.classifier
    graph = ClassifierGraph(
        clip,
        manifest.focus,
        mean=normalisation.mean,
        std=normalisation.std,
        **graph_tensors(_tensors(directory, HEAD_WEIGHTS)),
    )
    return graph.eval()


def _tensors(directory: EngineDirectory, name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in load_tensors(directory, name).items()}
