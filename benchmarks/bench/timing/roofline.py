"""This machine's peak rates, measured, and what the two models need: the roofline's least time."""

import timeit
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medfocus.benchmarks.baselines.upstream import upstream_models
from medfocus.benchmarks.bench.timing.device import measure_ceilings
from medfocus.engine.artifact.directory import EngineDirectory, load_tensors
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS, SEGMENTER_WEIGHTS
from medfocus.engine.io.images import SourceImage

LARGE, SMALL = 2048, 256  # rows and columns of the matrices
COPIED = 2**28  # bytes: more than a processor's caches hold
REPEATS = 6  # the first warms up
KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


class ModelCost(NamedTuple):
    """What one model needs.

    Attributes:
        flop: per image, matrix products and convolutions only.
        parameters: read once per batch.
    """

    flop: float
    parameters: int


class Roofline(NamedTuple):
    """Peak rates of this machine.

    Attributes:
        bandwidth: of a large copy, bytes/s, read and written.
        matrix_rates: of a large matrix product, operations/s by precision.
    """

    bandwidth: float
    matrix_rates: dict[str, float]

    def least_seconds(self, cost: ModelCost, batch: int, precision: str) -> float | None:
        """The least time of a batch, weights read once; None if the rate is not known."""
        rate = self.matrix_rates.get(precision)
        if rate is None:
            return None
        size = cost.parameters * KINDS[precision].itemsize
        return max(batch * cost.flop / rate, size / self.bandwidth)


def measure_roofline(device: str) -> Roofline:
    """Large copies and products, for some seconds.

    A processor's rates are never below that of fp32, in which it can compute all others: one that
    is slower at small products is emulated, and would take minutes at large ones. On a GPU only
    bf16 is measured, whose rate fp16 shares.
    """
    if device == "cuda":
        found = measure_ceilings()
        return Roofline(found.bandwidth, dict.fromkeys(("fp16", "bf16"), found.matrix_rate))
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * COPIED / _least_seconds(lambda: target.copy_(source))
    small = {name: _rate(dtype, SMALL) for name, dtype in KINDS.items()}
    rates = dict.fromkeys(KINDS, _rate(torch.float32, LARGE))
    for name, dtype in KINDS.items():
        if small[name] > small["fp32"]:
            rates[name] = max(rates[name], _rate(dtype, LARGE))
    return Roofline(bandwidth, rates)


def _rate(dtype: torch.dtype, side: int) -> float:
    """Operations/s of a product of two square matrices."""
    left, right = (torch.randint(-8, 8, (side, side)).to(dtype) for _ in range(2))
    product: Callable[..., Tensor] = torch._int_mm if dtype is torch.int8 else torch.matmul
    return 2 * side**3 / _least_seconds(lambda: product(left, right))


def _least_seconds(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs."""
    return min(timeit.repeat(work, number=1, repeat=REPEATS))


def model_costs(directory: EngineDirectory, image: SourceImage) -> tuple[ModelCost, ModelCost]:
    """Of segmenter and classifier, counted while upstream's code runs an image with all prompts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused operators
    try:
        models = upstream_models(directory, "cpu")
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as segmenter:
                logits = models.segment([image])
            with FlopCounterMode(display=False) as classifier:
                models.classify([image], logits)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    files = (SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS)
    sizes = [sum(t.size for t in load_tensors(directory, file).values()) for file in files]
    return (
        ModelCost(segmenter.get_total_flops(), sizes[0]),
        ModelCost(classifier.get_total_flops(), sizes[1]),
    )
