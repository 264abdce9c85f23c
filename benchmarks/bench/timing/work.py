"""What the two models must do for an image, whoever runs them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medfocus.benchmarks.baselines.implementations import Models
from medfocus.benchmarks.baselines.upstream import upstream_models
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.io.images import SourceImage

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


class ModelCost(NamedTuple):
    """Of one model.

    Attributes:
        flop: of an image, matrix products and convolutions alone.
        parameters: read once a batch.
    """

    flop: float
    parameters: int

    def bytes(self, precision: str) -> int:
        """Of its parameters in a precision."""
        return self.parameters * BYTES[precision]


def work_of(directory: EngineDirectory, image: SourceImage) -> tuple[ModelCost, ModelCost]:
    """Of segmenter and classifier, counted while upstream's code runs an image with all prompts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused operators
    try:
        with sdpa_kernel(SDPBackend.MATH):
            flop = _count(upstream_models(directory, "cpu"), [image])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    files = (SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS)
    sizes = [sum(t.size for t in load_tensors(directory, file).values()) for file in files]
    return ModelCost(flop[0], sizes[0]), ModelCost(flop[1], sizes[1])


def _count(models: Models, images: Sequence[SourceImage]) -> tuple[float, float]:
    with FlopCounterMode(display=False) as segmenter:
        logits = models.segment(images)
    with FlopCounterMode(display=False) as classifier:
        models.classify(images, logits)
    return segmenter.get_total_flops(), classifier.get_total_flops()
