"""What an export builds: precision, targets, batch sizes."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from medfocus.engine.artifact.layout import (
    CLASSIFIER_INT8,
    CLASSIFIER_ONNX,
    CLASSIFIER_WEIGHTS,
    SEGMENTER_INT8,
    SEGMENTER_ONNX,
    SEGMENTER_WEIGHTS,
    weights_of,
)
from medfocus.engine.artifact.manifest import MOST_IMAGES
from medfocus.engine.artifact.precision import ComputePrecision, Dtype
from medfocus.engine.backends.tensorrt.library import require_tensorrt
from medfocus.engine.runtime import cuda
from medfocus.errors import InputError, MedfocusError
from medfocus.settings import join_slices

# The backend that runs each target, and the module that must be installed to check it.
TARGETS = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "torch"),
    "tensorrt": ("tensorrt", "tensorrt"),
}
# Needed to export and check anything except PyTorch in float32.
ONNX_TOOLS = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes")
INSTALL = "pip install 'medfocus[export]'"


@dataclass(frozen=True)
class ExportConfig:
    """What to build; by default PyTorch in float32.

    Attributes:
        dtype: precision of matrix products, in every target.
        targets: names from `TARGETS`.
        int8: whether OpenVINO computes in int8.
        buckets: batch sizes to prepare for and to check.
        trt_attention: attention in the classifier's TensorRT plan: TensorRT's own, or our kernel
            as a plugin.
        optional: leave out a target that fails the parity gate, as long as another one passes;
            int8 is never optional. Otherwise the export fails.
        join: how the slices of a series become one answer: see `join_slices`.

    Raises:
        InputError: a target is unknown (`backend.unknown`), not installed
            (`backend.not_installed`) or cannot be checked on this machine
            (`backend.unsupported_precision`, `backend.broken`, or a code of the device), or there
            is none; int8 without OpenVINO; buckets are not an ascending list of positive numbers;
            an unknown way to join slices.
    """

    dtype: Dtype = "fp32"
    targets: tuple[str, ...] = ("torch",)
    int8: bool = False
    buckets: tuple[int, ...] = (1, 8, 32)
    trt_attention: Literal["native", "plugin"] = "native"
    optional: bool = False
    join: str = "mean"

    def __post_init__(self) -> None:
        join_slices(self.join)
        known = ", ".join(TARGETS)
        if not self.targets:
            raise InputError("targets", "none are given", f"name some of {known}")
        for target in self.targets:
            if target not in TARGETS:
                raise InputError(
                    f"target {target!r}", "not known", f"use {known}", code="backend.unknown"
                )
            if error := unavailable(target, self.dtype):
                raise error
        needs_onnx = self.dtype != "fp32" or set(self.targets) != {"torch"}
        tools = (*ONNX_TOOLS, *(["nncf"] if self.int8 else [])) if needs_onnx else ()
        for module in tools:
            if find_spec(module) is None:
                raise _not_installed("export", f"needs {module}, which is not installed")
        if self.int8 and "openvino" not in self.targets:
            raise InputError(
                "int8", "is for OpenVINO, which is not a target", "add the target openvino"
            )
        ascending = list(self.buckets) == sorted(set(self.buckets))
        if not self.buckets or self.buckets[0] < 1 or not ascending:
            problem = f"{self.buckets} is no ascending list of positive numbers"
            raise InputError("batch", problem, "give batch sizes such as 1,8,32")
        if self.buckets[-1] > MOST_IMAGES:
            problem = f"{self.buckets[-1]} is more than {MOST_IMAGES}"
            raise InputError("batch", problem, "give batch sizes such as 1,8,32")

    @property
    def backends(self) -> dict[str, ComputePrecision]:
        """The backends by name, with the precision in which each is checked."""
        backends: dict[str, ComputePrecision] = {
            TARGETS[target][0]: self.dtype for target in TARGETS if target in self.targets
        }
        if "openvino" in backends:
            from medfocus.export.openvino.compute_precision import best_compute_precision

            backends["openvino"] = "int8" if self.int8 else best_compute_precision(self.dtype)
        return backends


def files_of(backend: str, precision: ComputePrecision) -> tuple[str, ...]:
    """The files of an engine directory that a backend reads.

    Without TensorRT's plans, which have their own folder, and the head, which every engine has.
    """
    if backend == "torch":
        return SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS
    graphs = (SEGMENTER_ONNX, CLASSIFIER_ONNX)
    if precision == "int8":
        graphs = (SEGMENTER_INT8, CLASSIFIER_INT8)
    return (*graphs, *map(weights_of, graphs))


def unavailable(target: str, dtype: Dtype) -> InputError | None:
    """Why a target cannot be built and checked on this machine, as an error; None if it can."""
    item = f"target {target}"
    if target == "tensorrt":
        try:
            require_tensorrt()
            cuda.architecture()
        except MedfocusError as error:
            return InputError(item, error.problem, error.hint, code=error.code)
        return None
    _, module = TARGETS[target]
    if find_spec(module) is None:
        return _not_installed(item, f"{module} is not installed")
    if target == "onnx" and dtype == "bf16":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return InputError(
                item,
                "ONNX Runtime computes in bf16 only on CUDA, which it does not find here",
                "leave the target out, or export in fp16",
                code="backend.unsupported_precision",
            )
    return None


def _not_installed(item: str, problem: str) -> InputError:
    return InputError(item, problem, INSTALL, code="backend.not_installed")


def installed_targets(dtype: Dtype) -> tuple[tuple[str, ...], dict[str, str]]:
    """The targets that can be built and checked here, and for each other target the reason."""
    errors = {target: unavailable(target, dtype) for target in TARGETS}
    return (
        tuple(target for target, error in errors.items() if error is None),
        {target: error.problem for target, error in errors.items() if error is not None},
    )
