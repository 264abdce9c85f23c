"""What this machine does at most, measured: the two edges of its roofline."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from medfocus.benchmarks.gpu.timing import measure_ceilings

SIDE, SMALL = 2048, 256  # of the matrices
BYTES = 2**28  # of the copy: more than a processor's caches hold
TIMES = 5
KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}


class Roofline(NamedTuple):
    """Of this machine.

    Attributes:
        bandwidth: of a large copy, bytes/s, read and written.
        matrix_rates: of a large matrix product, operations/s by precision.
    """

    bandwidth: float
    matrix_rates: dict[str, float]

    def least_seconds(self, flop: float, size: float, precision: str) -> float | None:
        """The least time for `flop` of matrix products and `size` bytes; None if not known."""
        rate = self.matrix_rates.get(precision)
        return None if rate is None else max(flop / rate, size / self.bandwidth)


def measure_roofline(device: str) -> Roofline:
    """Some seconds of large copies and products.

    A processor's rates are never below that of fp32, in which all others can be computed too: one
    that is slower at small products is emulated, and would take minutes at large ones. On a GPU
    only that of bf16, which fp16 shares, is measured.
    """
    if device == "cuda":
        found = measure_ceilings()
        return Roofline(found.bandwidth, dict.fromkeys(("fp16", "bf16"), found.matrix_rate))
    source = torch.ones(BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * BYTES / _least(lambda: target.copy_(source))
    small = {name: _rate(dtype, SMALL) for name, dtype in KINDS.items()}
    rates = dict.fromkeys(KINDS, _rate(torch.float32, SIDE))
    for name, dtype in KINDS.items():
        if small[name] > small["fp32"]:
            rates[name] = max(rates[name], _rate(dtype, SIDE))
    return Roofline(bandwidth, rates)


def _rate(dtype: torch.dtype, side: int) -> float:
    """Operations/s of a product of two square matrices."""
    left, right = (torch.randint(-8, 8, (side, side)).to(dtype) for _ in range(2))
    product: Callable[..., Tensor] = torch._int_mm if dtype is torch.int8 else torch.matmul
    return 2 * side**3 / _least(lambda: product(left, right))


def _least(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(TIMES + 1):  # the first warms up
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
