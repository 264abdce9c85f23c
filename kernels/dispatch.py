"""Which path a call takes: the Triton kernel, or PyTorch's own operators with the same meaning.

`MEDFOCUS_KERNELS` sets the mode when the package is imported:

- `on`, the default: CUDA tensors of a form that a kernel supports take the kernel.
- `off`: always PyTorch.
- `require`: always the kernel; what it cannot take is an error. With `TRITON_INTERPRET=1` this
  also runs the kernels on CPU tensors, through Triton's interpreter.

`MEDFOCUS_CHECKS=on` also looks at values (NaN in a bias, sequence offsets that do not ascend).
That waits for the device, so it is off otherwise.
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

# Tensor-core instructions for bfloat16, and asynchronous copies, begin here.
OLDEST_ARCHITECTURE = (8, 0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

INTERPRETED = bool(triton.knobs.runtime.interpret)


def _from_environment() -> tuple[Mode, bool]:
    mode = os.environ.get("MEDFOCUS_KERNELS", "on")
    checks = os.environ.get("MEDFOCUS_CHECKS", "off")
    if mode not in get_args(Mode):
        raise InputError("MEDFOCUS_KERNELS", f"{mode!r} is no mode", "set on, off or require")
    if checks not in ("on", "off"):
        raise InputError("MEDFOCUS_CHECKS", f"{checks!r} is no setting", "set on or off")
    return mode, checks == "on"  # type: ignore[return-value]


_mode, _checks = _from_environment()
_last_path: dict[str, Path] = {}
_emitted: frozenset[str] = frozenset()


@contextmanager
def using(mode: Mode, checks: bool = False) -> Iterator[None]:
    """Another mode for a while, in every thread; for tests and benchmarks."""
    global _mode, _checks
    before = _mode, _checks
    _mode, _checks = mode, checks
    try:
        yield
    finally:
        _mode, _checks = before


@contextmanager
def emitting(*kernels: str) -> Iterator[None]:
    """Keep kernels as custom operators in graphs that are exported meanwhile.

    For a runtime that has these kernels itself. Elsewhere nothing changes.

    Args:
        kernels: functions' names, `masked_attention` say.
    """
    global _emitted
    before = _emitted
    _emitted = frozenset(kernels)
    try:
        yield
    finally:
        _emitted = before


def checks_values() -> bool:
    """Whether arguments' values are looked at."""
    return _checks


def last_path(kernel: str) -> Path:
    """The path that the last call of a kernel took, in any thread.

    Args:
        kernel: the function's name, `masked_attention` say.

    Raises:
        KeyError: it was not called yet.
    """
    return _last_path[kernel]


def record(kernel: str, path: Path) -> None:
    """Remember which path ran; each path calls this where it runs."""
    _last_path[kernel] = path


def takes_kernel(kernel: str, tensor: Tensor, refusal: str | None) -> bool:
    """Choose the path of one call.

    Args:
        kernel: the function's name.
        tensor: the argument that decides on the device.
        refusal: why the kernel cannot take these arguments wherever they are; None if it can.

    Raises:
        InputError: the mode is `require`, or the kernel is to be emitted, and it cannot run.
    """
    if kernel in _emitted and torch.compiler.is_exporting():
        if refusal is not None:
            raise InputError(kernel, f"cannot be exported as a kernel: {refusal}", "do without it")
        return True
    if _mode == "off":
        return False
    refusal = refusal or _device_refusal(tensor)
    if refusal is None:
        return True
    if _mode == "require":
        raise InputError(
            kernel, f"the kernel is required, but {refusal}", "set MEDFOCUS_KERNELS=on"
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
