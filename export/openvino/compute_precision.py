"""Chooses OpenVINO's compute precision for a half-precision export on this processor."""

import timeit
from functools import cache

import numpy as np
import openvino
from openvino import opset13 as opset

from medfocus.engine.artifact.precision import ComputePrecision
from medfocus.engine.backends.openvino import HINTS, has_bf16

TOKENS, WIDTH, HIDDEN = 1024, 768, 3072  # the largest product of a ViT-B layer


def best_compute_precision(wanted: ComputePrecision) -> ComputePrecision:
    """bf16 for `fp16` and `bf16` where that is faster, otherwise fp32.

    A processor may support bf16 without being faster in it: that needs matrix units.
    """
    return "bf16" if wanted != "fp32" and bf16_is_faster() else "fp32"


@cache
def bf16_is_faster() -> bool:
    """Whether a matrix product takes less time in bf16 than in float32; timed once per process."""
    core = openvino.Core()
    return has_bf16(core) and _product_seconds(core, "bf16") < _product_seconds(core, "fp32")


def _product_seconds(core: openvino.Core, precision: ComputePrecision) -> float:
    """The time of one matrix product, the minimum of ten runs."""
    tokens = opset.parameter([TOKENS, WIDTH], np.float32)
    weights = opset.constant(np.ones((WIDTH, HIDDEN), np.float32))
    model = openvino.Model([opset.matmul(tokens, weights, False, False)], [tokens])
    hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    inputs = [np.ones((TOKENS, WIDTH), np.float32)]
    request.infer(inputs)
    return min(timeit.repeat(lambda: request.infer(inputs), number=1, repeat=10))
