"""The attention kernel as a quick deployable plugin, its PTX compiled into the plan.

TensorRT launches the PTX itself, with inputs, then extra arguments (none here), then outputs as
the kernel's parameters, so that a plan needs neither Python nor Triton when it runs.

Import it only after `require_tensorrt` has passed. TensorRT reads the annotations when it registers
the functions; `from __future__ import annotations` would hide them from it.
"""

import tensorrt as trt
import torch

from medfocus.errors import InputError

if not hasattr(trt, "QuickPluginCreationRequest"):
    raise InputError(
        f"tensorrt {trt.__version__}",
        "has no ahead-of-time plugins",
        "install a newer TensorRT, or use --trt-attention native",
        code="backend.broken",
    )

import tensorrt.plugin as trtp

from medfocus.export.tensorrt.plugin_graph import PLUGIN
from medfocus.kernels.masked_attention_packed import compile_packed

DTYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
}

_architecture: int | None = None


def register(architecture: int) -> None:
    """Register the plugin with TensorRT, its kernels compiled for one GPU architecture.

    Args:
        architecture: compute capability, 90 for 9.0.
    """
    global _architecture
    registered = _architecture is not None
    _architecture = architecture
    if not registered:  # TensorRT refuses a second registration
        trtp.register(PLUGIN)(describe)
        trtp.aot_impl(PLUGIN)(implement)


def describe(
    qkv: trtp.TensorDesc, key_bias: trtp.TensorDesc, num_heads: int
) -> tuple[trtp.TensorDesc]:
    """Output shape and type: (B, N, 3·H·D), (B, N) float32 -> (B, N, H·D) in the type of qkv."""
    out = qkv.like()
    out.shape_expr[2] = qkv.shape_expr[2] // 3
    return (out,)


def implement(
    qkv: trtp.TensorDesc,
    key_bias: trtp.TensorDesc,
    num_heads: int,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
    """The kernel's name and PTX, its launch, and its extra arguments (none).

    Raises:
        InputError: types or shapes that the kernel does not support (`kernel.unsupported`).
    """
    hint, code = "use --trt-attention native", "kernel.unsupported"
    if qkv.dtype not in DTYPES or key_bias.dtype != trt.DataType.FLOAT:
        raise InputError(PLUGIN, f"types {qkv.dtype}, {key_bias.dtype}", hint, code=code)
    _, tokens, packed = qkv.shape
    if tokens < 0 or packed < 0:
        raise InputError(PLUGIN, f"dynamic size {qkv.shape}", hint, code=code)
    assert _architecture is not None  # `register` sets it before TensorRT calls this
    width = packed // 3 // num_heads
    kernel = compile_packed(tokens, num_heads, width, DTYPES[qkv.dtype], _architecture)
    launch = trtp.KernelLaunchParams(
        grid_x=qkv.shape_expr[0] * kernel.programs,
        block_x=kernel.threads,
        shared_mem=kernel.shared_bytes,
    )
    return kernel.name, kernel.ptx, launch, trtp.SymIntExprs(0)
