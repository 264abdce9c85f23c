"""What an export is to build: precision, runtimes, batch sizes."""

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
from medfocus.engine.artifact.precision import ComputePrecision, Dtype
from medfocus.engine.backends.tensorrt.library import require_tensorrt
from medfocus.engine.runtime import cuda
from medfocus.errors import InputError, MedfocusError

# The backend that runs each target, and the module that must be there to check it.
TARGETS = {
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "torch"),
    "tensorrt": ("tensorrt", "tensorrt"),
}
# What the exporting and checking of anything but PyTorch in float32 is done with.
ONNX_TOOLS = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes")


@dataclass(frozen=True)
class ExportConfig:
    """What to build; PyTorch in float32 unless told otherwise.

    Attributes:
        dtype: of matrix products, in every target.
        targets: names from `TARGETS`.
        int8: OpenVINO computes in int8.
        buckets: batch sizes to prepare for and to check.
        trt_attention: of the classifier's TensorRT plan: TensorRT's own, or our kernel as a plugin.
        optional: a target that misses the parity gate is left out, as long as another is there
            and it was not asked for as int8; else the export fails.

    Raises:
        InputError: a target that is unknown, not installed or cannot be checked here, or none;
            int8 without OpenVINO; buckets that are no ascending list of positive numbers.
    """

    dtype: Dtype = "fp32"
    targets: tuple[str, ...] = ("torch",)
    int8: bool = False
    buckets: tuple[int, ...] = (1, 8, 32)
    trt_attention: Literal["native", "plugin"] = "native"
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("targets", "none are named", "use some of " + ", ".join(TARGETS))
        for target in self.targets:
            if target not in TARGETS:
                raise InputError(f"target {target!r}", "not known", "use " + ", ".join(TARGETS))
            if refusal := refused(target, self.dtype):
                raise InputError(f"target {target}", refusal, "leave it out, or install it")
        plain = self.dtype == "fp32" and set(self.targets) == {"torch"}
        for module in () if plain else (*ONNX_TOOLS, *(("nncf",) if self.int8 else ())):
            if find_spec(module) is None:
                problem = f"needs {module}, which is not installed"
                raise InputError("export", problem, "pip install 'medfocus[export]'")
        if self.int8 and "openvino" not in self.targets:
            raise InputError("int8", "is for OpenVINO, which is no target", "add target openvino")
        ascending = list(self.buckets) == sorted(set(self.buckets))
        if not self.buckets or self.buckets[0] < 1 or not ascending:
            problem = f"{self.buckets} is no ascending list of positive numbers"
            raise InputError("batch", problem, "give batch sizes such as 1,8,32")

    @property
    def backends(self) -> dict[str, ComputePrecision]:
        """The backends by name, with the precision that each is to be checked in."""
        found: dict[str, ComputePrecision] = {
            TARGETS[target][0]: self.dtype for target in TARGETS if target in self.targets
        }
        if "openvino" in found:
            from medfocus.export.openvino.compute_precision import best_compute_precision

            found["openvino"] = "int8" if self.int8 else best_compute_precision(self.dtype)
        return found


def files_of(backend: str, precision: ComputePrecision) -> tuple[str, ...]:
    """The files of an engine directory that are there for a backend's sake.

    Without TensorRT's plans, whose folder is its own, and the head, which every engine holds.
    """
    if backend == "torch":
        return SEGMENTER_WEIGHTS, CLASSIFIER_WEIGHTS
    graphs = (SEGMENTER_ONNX, CLASSIFIER_ONNX)
    if precision == "int8":
        graphs = (SEGMENTER_INT8, CLASSIFIER_INT8)
    return (*graphs, *map(weights_of, graphs))


def refused(target: str, dtype: Dtype) -> str | None:
    """Why a target cannot be built and checked on this machine; None if it can."""
    if target == "tensorrt":
        try:
            require_tensorrt()
            cuda.architecture()
        except MedfocusError as error:
            return error.problem
        return None
    _, module = TARGETS[target]
    if find_spec(module) is None:
        return f"{module} is not installed"
    if target == "onnx" and dtype == "bf16":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "ONNX Runtime computes in bf16 on CUDA alone, and has none here to be checked on"
    return None


def installed_targets(dtype: Dtype) -> tuple[tuple[str, ...], dict[str, str]]:
    """The targets that can be built and checked here, and of the others, why not."""
    reasons = {target: refused(target, dtype) for target in TARGETS}
    return (
        tuple(target for target, reason in reasons.items() if reason is None),
        {target: reason for target, reason in reasons.items() if reason is not None},
    )
