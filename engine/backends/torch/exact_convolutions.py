"""Convolutions in float32 whose inputs cuDNN does not round to TF32, as it does by default.

PyTorch's switch for that is global to the process, and an application may have set it. The mode
here belongs to the thread that enters it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExactConvolutions(TorchFunctionMode):
    """Within it, `conv2d` and `conv_transpose2d` of float32 tensors on CUDA never use TF32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See `TorchFunctionMode`."""
        exact = _EXACT.get(func)
        if exact is None or not _rounds(args[0]):
            return func(*args, **(kwargs or {}))
        return exact(*args, **(kwargs or {}))


def _rounds(image: Tensor) -> bool:
    """Whether cuDNN would round this input: half precision it does not."""
    half = torch.is_autocast_enabled(image.device.type)
    return image.is_cuda and image.dtype == torch.float32 and not half


def conv2d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d` by cuDNN, with TF32 not allowed."""
    output = torch.cudnn_convolution(
        image, weight, _pair(padding), _pair(stride), _pair(dilation), groups, *_cudnn()
    )
    return output if bias is None else output + bias[:, None, None]


def conv_transpose2d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`torch.conv_transpose2d` by cuDNN, with TF32 not allowed."""
    output = torch.cudnn_convolution_transpose(
        image,
        weight,
        _pair(padding),
        _pair(output_padding),
        _pair(stride),
        _pair(dilation),
        groups,
        *_cudnn(),
    )
    return output if bias is None else output + bias[:, None, None]


_EXACT: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv2d: conv2d,
    torch.conv_transpose2d: conv_transpose2d,
}


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _cudnn() -> tuple[bool, bool, bool]:
    """Whether to benchmark and to be deterministic, as the application has it, and TF32: no."""
    cudnn = torch.backends.cudnn
    deterministic = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    return cudnn.benchmark, deterministic, False
