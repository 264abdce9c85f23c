"""Chooses the path of a call: the Triton kernel, or its PyTorch reference.

`MEDFOCUS_KERNELS` sets the mode when the package is imported:

- `on`, the default: CUDA tensors that a kernel supports run in the kernel.
- `off`: always PyTorch.
- `require`: always the kernel; arguments that it does not support are an error. With
  `TRITON_INTERPRET=1` the kernels also run on CPU tensors, in Triton's interpreter.

`MEDFOCUS_CHECKS=on` also checks values (NaN in a bias, sequence offsets that do not ascend).
That waits for the device, so it is off by default.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import triton
from torch import Tensor

from medfocus.errors import InputError

Mode = Literal["on", "off", "require"]
Path = Literal["triton", "torch"]

# The first with bfloat16 on tensor cores and asynchronous copies.
OLDEST_ARCHITECTURE = (8, 0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

INTERPRETED = bool(triton.knobs.runtime.interpret)


def _from_environment() -> tuple[Mode, bool]:
    mode = os.environ.get("MEDFOCUS_KERNELS", "on")
    checks = os.environ.get("MEDFOCUS_CHECKS", "off")
    if mode not in get_args(Mode):
        raise InputError("MEDFOCUS_KERNELS", f"unknown mode {mode!r}", "use on, off or require")
    if checks not in ("on", "off"):
        raise InputError("MEDFOCUS_CHECKS", f"unknown value {checks!r}", "use on or off")
    return mode, checks == "on"  # type: ignore[return-value]


_mode, _checks = _from_environment()
_last_path: dict[str, Path] = {}
_emitted: frozenset[str] = frozenset()


@contextmanager
def using(mode: Mode, checks: bool = False) -> Iterator[None]:
    """Set the mode within a `with` block, in every thread; for tests and benchmarks."""
    global _mode, _checks
    before = _mode, _checks
    _mode, _checks = mode, checks
    try:
        yield
    finally:
        _mode, _checks = before


@contextmanager
def emitting(*kernels: str) -> Iterator[None]:
    """Keep kernels as custom operators in graphs exported within the `with` block.

    For runtimes that implement these kernels themselves. Calls outside an export do not change.

    Args:
        kernels: names of functions, such as `masked_attention`.
    """
    global _emitted
    before = _emitted
    _emitted = frozenset(kernels)
    try:
        yield
    finally:
        _emitted = before


def checks_values() -> bool:
    """Whether the values of arguments are checked."""
    return _checks


def last_path(kernel: str) -> Path:
    """The path of the last call of a kernel, in any thread.

    Args:
        kernel: the function's name, such as `masked_attention`.

    Raises:
        KeyError: it has not been called yet.
    """
    return _last_path[kernel]


def record(kernel: str, path: Path) -> None:
    """Record which path ran; each path calls this where it runs."""
    _last_path[kernel] = path


def takes_kernel(kernel: str, tensor: Tensor, refusal: str | None) -> bool:
    """Choose the path of one call.

    Args:
        kernel: the function's name.
        tensor: the argument whose device decides.
        refusal: why the kernel does not support these arguments on any device; None if it does.

    Raises:
        InputError: the mode is `require`, or the kernel is to be emitted, and the kernel does not
            support the call (`kernel.unsupported`).
    """
    if kernel in _emitted and torch.compiler.is_exporting():
        if refusal is not None:
            raise InputError(
                kernel,
                f"cannot be exported as a kernel: {refusal}",
                "export without the kernel",
                code="kernel.unsupported",
            )
        return True
    if _mode == "off":
        return False
    refusal = refusal or _device_refusal(tensor)
    if refusal is None:
        return True
    if _mode == "require":
        raise InputError(
            kernel,
            f"the kernel is required, but {refusal}",
            "set MEDFOCUS_KERNELS=on",
            code="kernel.unsupported",
        )
    return False


def _device_refusal(tensor: Tensor) -> str | None:
    if INTERPRETED and _mode == "require":
        return None
    if tensor.device.type != "cuda":
        return f"the tensor is on {tensor.device.type}"
    if torch.version.hip is not None:
        return "this PyTorch is built for another vendor's GPU"
    capability = torch.cuda.get_device_capability(tensor.device)
    if capability < OLDEST_ARCHITECTURE:
        return f"compute capability {capability} is below {OLDEST_ARCHITECTURE}"
    return None
