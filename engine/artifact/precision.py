"""In which precision an engine's graphs compute, as data that the manifest carries."""

from dataclasses import dataclass
from typing import Literal

from medfocus.settings import require

Dtype = Literal["fp32", "fp16", "bf16"]
ComputePrecision = Literal["fp32", "fp16", "bf16", "int8"]

# What each backend can be asked to compute in.
COMPUTE_PRECISIONS: dict[str, tuple[ComputePrecision, ...]] = {
    "torch": ("fp32", "fp16", "bf16"),
    "onnxruntime": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16"),
}


@dataclass(frozen=True)
class Precision:
    """The types that are written into the ONNX graphs.

    Attributes:
        dtype: of what is not float32; `fp32` where nothing else is.
        half: operators that compute in `dtype`.
        follow: operators that stay in whatever type their inputs have; all others, LayerNorm,
            softmax and sums among them, compute in float32.
        float32_scopes: parts of module names within which all is float32.
        float32_blocks: blocks that the parity gate made float32, as `<graph>: <module>`.
    """

    dtype: Dtype = "fp32"
    half: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    float32_scopes: tuple[str, ...] = ()
    float32_blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain = self.dtype == "fp32" and (self.half or self.float32_blocks)
        require(not plain, "half", "names operators, and the precision is fp32")
