"""The precisions that an engine's graphs compute in, as data for the manifest."""

from dataclasses import dataclass
from typing import Literal

from medfocus.settings import require

Dtype = Literal["fp32", "fp16", "bf16"]
ComputePrecision = Literal["fp32", "fp16", "bf16", "int8"]

# The precisions that each backend can compute in.
COMPUTE_PRECISIONS: dict[str, tuple[ComputePrecision, ...]] = {
    "torch": ("fp32", "fp16", "bf16"),
    "onnxruntime": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16"),
}


@dataclass(frozen=True)
class Precision:
    """The precision policy of the ONNX graphs.

    Attributes:
        dtype: of the operators in `half`; `fp32` if everything is float32.
        half: operators that compute in `dtype`.
        follow: operators that keep the type of their inputs; all others, among them LayerNorm,
            softmax and sums, compute in float32.
        float32_scopes: module names, or parts of them, within which everything is float32.
        float32_blocks: blocks that the parity gate switched to float32, as `<graph>: <module>`.
    """

    dtype: Dtype = "fp32"
    half: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    float32_scopes: tuple[str, ...] = ()
    float32_blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain = self.dtype == "fp32" and (self.half or self.float32_blocks)
        require(not plain, "half", "names operators, and the precision is fp32")
