"""Argument checks of the attention functions, made before any launch."""

import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch

WIDTHS = range(16, 129, 8)  # the head widths D that the attention kernels support
# Offsets inside one image are 32-bit in the kernels; offsets of images are 64-bit.
LARGEST_OFFSET = 2**31


def require(condition: bool, argument: str, problem: str, hint: str) -> None:
    """Raise `InputError` naming the argument unless the condition holds."""
    if not condition:
        raise InputError(argument, problem, hint)


def check_packed(name: str, packed: Tensor, form: str, tensors: int, num_heads: int) -> int:
    """Check a packed projection and return the head width D.

    Args:
        name: the argument's name, for the error.
        packed: (..., tensors·H·D), its last dimension dense.
        form: the expected shape in letters, for the error: one letter group per dimension.
        tensors: 3 for q, k and v; 2 for k and v; 1 for q.
        num_heads: H.

    Raises:
        InputError: wrong shape or dtype, or the last dimension is not dense.
    """
    shape = tuple(packed.shape)
    require(packed.ndim == form.count(",") + 1, name, f"shape {shape}", f"pass {form}")
    require(
        packed.is_floating_point(),
        name,
        f"dtype {packed.dtype}",
        "pass float16, bfloat16, float32 or float64",
    )
    require(num_heads >= 1, "num_heads", f"{num_heads}", "pass 1 or more")
    require(
        packed.shape[-1] > 0 and packed.shape[-1] % (tensors * num_heads) == 0,
        name,
        f"last dimension {packed.shape[-1]} is not a multiple of {tensors}·{num_heads}",
        f"pass {form}",
    )
    require(
        packed.stride(-1) == 1,
        name,
        f"last dimension has stride {packed.stride(-1)}",
        "pass a tensor whose last dimension is dense",
    )
    require(all(shape[1:-1]), name, f"shape {shape} has no tokens", "pass one or more")
    return packed.shape[-1] // (tensors * num_heads)


def check_key_bias(key_bias: Tensor, shapes: dict[str, tuple[int, ...]], like: Tensor) -> None:
    """Check dtype, device and shape of a bias, and its values where `MEDFOCUS_CHECKS` is on.

    Args:
        key_bias: one number per key.
        shapes: the accepted shapes, by their letters.
        like: the packed projection.

    Raises:
        InputError: one of the checks fails; the code is `input.not_finite` for NaN.
    """
    expected = torch.float64 if like.dtype == torch.float64 else torch.float32
    require(
        key_bias.dtype == expected,
        "key_bias",
        f"dtype {key_bias.dtype}",
        f"pass {expected}: a narrower bias would be rounded before the softmax",
    )
    check_device("key_bias", key_bias, like)
    fitting = " or ".join(f"{letters} = {shape}" for letters, shape in shapes.items())
    require(
        any(key_bias.shape == shape for shape in shapes.values()),
        "key_bias",
        f"shape {tuple(key_bias.shape)} is not {fitting}",
        "pass one number per key",
    )
    check_no_nan("key_bias", key_bias)


def check_no_nan(name: str, tensor: Tensor) -> None:
    """Refuse NaN where `MEDFOCUS_CHECKS` is on; reading the values waits for the device."""
    if dispatch.checks_values() and bool(tensor.isnan().any()):
        raise InputError(name, "contains NaN", "check how it was computed", code="input.not_finite")


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Check that two arguments are on the same device."""
    require(
        tensor.device == like.device,
        name,
        f"is on {tensor.device}, and the tokens are on {like.device}",
        "move both to the same device",
    )


def refusal(packed: Tensor, width: int) -> str | None:
    """Why an attention kernel does not support a packed projection; None if it does."""
    if packed.dtype not in dispatch.DTYPES:
        return f"dtype {packed.dtype} is none of float16, bfloat16 and float32"
    if dispatch.INTERPRETED and packed.dtype == torch.bfloat16:
        return "Triton's interpreter does not support bfloat16"
    if width not in WIDTHS:
        return f"D = {width} is not a multiple of 8 from 16 to 128"
    if packed.shape[-2] * packed.stride(-2) >= LARGEST_OFFSET:
        return "one image spans 2^31 elements or more"
    return None
