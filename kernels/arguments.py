"""What the attention functions refuse, before any launch."""

import torch
from torch import Tensor

from medfocus.errors import InputError
from medfocus.kernels import dispatch

WIDTHS = range(16, 129, 8)  # D that the attention kernels take
# Offsets inside one image are 32-bit in the kernels; offsets of images are 64-bit.
LARGEST_OFFSET = 2**31


def require(condition: bool, argument: str, problem: str, hint: str) -> None:
    """Raise `InputError` naming the argument unless the condition holds."""
    if not condition:
        raise InputError(argument, problem, hint)


def check_packed(name: str, packed: Tensor, form: str, parts: int, num_heads: int) -> int:
    """Check a packed projection, and return D.

    Args:
        name: of the argument, for the error.
        packed: (..., parts·H·D), its last dimension dense.
        form: its shape in letters, for the error: one letter group a dimension.
        parts: 3 for q, k and v; 2 for k and v.
        num_heads: H.

    Raises:
        InputError: another shape or dtype, or a last dimension that is not dense.
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
        packed.shape[-1] > 0 and packed.shape[-1] % (parts * num_heads) == 0,
        name,
        f"last dimension {packed.shape[-1]} is no multiple of {parts}·{num_heads}",
        f"pass {form}",
    )
    require(
        packed.stride(-1) == 1,
        name,
        f"last dimension has stride {packed.stride(-1)}",
        "pass a tensor whose last dimension is dense",
    )
    require(all(shape[1:-1]), name, f"shape {shape} has no tokens", "pass one or more")
    return packed.shape[-1] // (parts * num_heads)


def check_key_bias(key_bias: Tensor, shapes: dict[str, tuple[int, ...]], like: Tensor) -> None:
    """Check dtype, device and shape of a bias; its values too where values are checked.

    Args:
        key_bias: one number a key.
        shapes: the shapes that fit, by their letters.
        like: the packed projection.

    Raises:
        InputError: one of them does not fit.
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
        "pass one number a key",
    )
    if dispatch.checks_values():
        require(not key_bias.isnan().any(), "key_bias", "it holds NaN", "look where it came from")


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Check that two arguments lie on one device."""
    require(
        tensor.device == like.device,
        name,
        f"it is on {tensor.device}, the tokens are on {like.device}",
        "pass both on one device",
    )


def refusal(packed: Tensor, width: int) -> str | None:
    """Why an attention kernel cannot take a packed projection; None if it can."""
    if packed.dtype not in dispatch.DTYPES:
        return f"dtype {packed.dtype} is none of float16, bfloat16 and float32"
    if dispatch.INTERPRETED and packed.dtype == torch.bfloat16:
        return "Triton's interpreter has no bfloat16 arithmetic"
    if width not in WIDTHS:
        return f"D = {width} is no multiple of 8 from 16 to 128"
    if packed.shape[-2] * packed.stride(-2) >= LARGEST_OFFSET:
        return "one image spans 2^31 elements or more"
    return None
