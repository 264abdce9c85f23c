"""Attention with one bias per key: our kernels and other implementations, on the same numbers.

An implementation may be listed with several layouts of its inputs; its fastest one counts.
All get their inputs in that layout beforehand, so that no time includes a copy.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention import masked_attention

# FlexAttention is compiled for each shape; beyond this it would silently run unfused. Default: 8.
torch._dynamo.config.recompile_limit = 64

OURS = "medfocus"
CHECKED_IMAGES = 4  # how many are compared with float64
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class KernelImplementation:
    """One way to compute what a comparison asks for.

    Attributes:
        name: shared by the layouts of one implementation.
        layout: description of its inputs.
        build: makes its inputs and returns the function that is timed.
        answer: converts the function's output to the comparison's layout.
        path: after a run, which backend ran.
        graph: whether a CUDA graph can capture it.
        exact, flop, bytes: where they differ from the comparison's.
    """

    name: str
    layout: str
    build: Callable[[], Run]
    answer: Callable[[Tensor], Tensor] = lambda output: output
    path: Callable[[], str] = lambda: "PyTorch"
    graph: bool = True
    exact: Callable[[], Tensor] | None = None
    flop: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Implementations of one kernel at one shape.

    Attributes:
        kernel: our function's name.
        shape: sizes by their letters, or the block that has them.
        dtype: of the tokens.
        flop: of the matrix products that the operation needs.
        bytes: each input read once, each output written once.
        exact: the first images' answer in float64.
        implementations: ours is first.
        slowdown: matrix products per product of this dtype, 6 for float32.
    """

    kernel: str
    shape: dict[str, int | str]
    dtype: torch.dtype
    flop: float
    bytes: float
    exact: Callable[[], Tensor]
    implementations: list[KernelImplementation]
    slowdown: int = 1


def ran(kernel: str) -> Callable[[], str]:
    """The path that our function took in its last call."""
    return lambda: dispatch.last_path(kernel)


def rounded_bias(*shape: int, device: str) -> Tensor:
    """A float32 bias of numbers that bfloat16 holds, the same for all."""
    return (-5 * torch.rand(*shape, device=device)).bfloat16().float()


def masked_inputs(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """qkv (B, N, 3·H·D) and a bias (B, N): always the same numbers."""
    torch.manual_seed(tokens)
    qkv = torch.randn(batch, tokens, 3 * heads * width, device=device).to(dtype)
    return qkv, rounded_bias(batch, tokens, device=device)


def masked(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """masked_attention; answers are (B, N, H·D)."""
    qkv, bias = masked_inputs(batch, heads, tokens, width, dtype, device)
    size = float(4 * batch * tokens * heads * width * dtype.itemsize)
    ours = [
        KernelImplementation(
            OURS,
            "packed (B, N, 3·H·D), bias (B, N)",
            lambda: lambda: masked_attention(qkv, bias, heads),
            path=ran("masked_attention"),
        ),
        KernelImplementation(
            f"{OURS}, no bias",
            "packed (B, N, 3·H·D)",
            lambda: lambda: masked_attention(qkv, None, heads),
            path=ran("masked_attention"),
            exact=lambda: exact_attention(qkv[:CHECKED_IMAGES], None, heads),
            bytes=size,
        ),
    ]
    return Comparison(
        kernel="masked_attention",
        shape={"B": batch, "H": heads, "N": tokens, "D": width},
        dtype=dtype,
        flop=4.0 * batch * heads * tokens**2 * width,
        bytes=size + bias.numel() * bias.itemsize,
        exact=lambda: exact_attention(qkv[:CHECKED_IMAGES], bias[:CHECKED_IMAGES], heads),
        implementations=[*ours, *attention_baselines(qkv, bias, heads)],
    )


def exact_attention(qkv: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """The formula in float64: (B, N, 3·H·D), (B, N) or none -> (B, N, H·D)."""
    q, k, v = split_heads(qkv.double(), heads)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.double()[:, None, None]
    return joined(logits.softmax(-1) @ v)


def split_heads(packed: Tensor, heads: int, parts: int = 3) -> tuple[Tensor, ...]:
    """(B, N, parts·H·D) -> `parts` views (B, H, N, D)."""
    split = packed.unflatten(-1, (parts, heads, -1))
    views: tuple[Tensor, ...] = split.permute(2, 0, 3, 1, 4).unbind(0)
    return views


def joined(heads: Tensor) -> Tensor:
    """(B, H, N, D) -> (B, N, H·D)."""
    return heads.transpose(1, 2).flatten(2)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "(B, H, N, D)": lambda t: t.contiguous(),
    "(B, N, H, D)": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
}
BACKENDS = {
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}


def attention_baselines(qkv: Tensor, bias: Tensor, heads: int) -> Iterator[KernelImplementation]:
    """Other implementations of masked_attention on (B, N, 3·H·D) tokens and a (B, N) bias."""
    for form in ("broadcast", "expanded"):
        yield from sdpa_baselines(
            lambda: split_heads(qkv, heads),
            bias,
            f", bias {form} from rows of a multiple of 8",
            joined,
            form == "expanded",
        )
    layout = "(B, H, N, D), float32 bias in score_mod, compiled"
    # FlashAttention-4 needs the package flash-attn-4; PyTorch's message says so.
    for name, options in {"FlexAttention": {}, "FlashAttention-4": {"BACKEND": "FLASH"}}.items():
        function = torch.compile(flex_attention, dynamic=False)
        build = partial(flex, qkv, bias, heads, function, options)
        yield KernelImplementation(name, layout, build, joined)


def sdpa_baselines(
    inputs: Callable[[], Sequence[Tensor]],
    bias: Tensor,
    note: str,
    answer: Callable[[Tensor], Tensor],
    expanded: bool = True,
) -> Iterator[KernelImplementation]:
    """PyTorch's SDPA with each of `BACKENDS`, and inputs (B, H, N, D) in each of `LAYOUTS`."""
    for (name, backend), (layout, arrange) in itertools.product(BACKENDS.items(), LAYOUTS.items()):
        yield KernelImplementation(
            name,
            layout + note,
            lambda b=backend, a=arrange: sdpa(  # type: ignore[misc]
                b, [a(t) for t in inputs()], bias, expanded
            ),
            answer,
            path=lambda b=backend: b.name,  # type: ignore[misc]
        )


def aligned_mask(bias: Tensor, dtype: torch.dtype, queries: int, heads: int | None) -> Tensor:
    """(B, N) -> (B, 1, 1, N) or, with `heads`, (B, H, N, N), as a view.

    Row strides are multiples of 8: otherwise the memory-efficient backend copies the mask.
    """
    batch, tokens = bias.shape
    # Sliced last, so that dimensions of size 1 have such strides too.
    mask = F.pad(bias.to(dtype), (0, -tokens % 8))[:, None, None][..., :tokens]
    return mask if heads is None else mask.expand(batch, heads, queries, tokens)


def sdpa(backend: SDPBackend, qkv: list[Tensor], bias: Tensor, expanded: bool) -> Run:
    """PyTorch's attention on (B, H, N, D) inputs; raises where the backend cannot run them."""
    q, k, v = qkv
    mask = aligned_mask(bias, q.dtype, q.shape[2], q.shape[1] if expanded else None)

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return run


def flex(
    qkv: Tensor, bias: Tensor, heads: int, function: Callable[..., Any], options: dict[str, str]
) -> Run:
    """FlexAttention by `function`, `flex_attention` itself or compiled."""
    q, k, v = (t.contiguous() for t in split_heads(qkv, heads))

    def add(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias[b, key]

    return lambda: function(q, k, v, score_mod=add, kernel_options=options)
