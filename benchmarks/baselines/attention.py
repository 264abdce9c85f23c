"""Attention with a bias a key: our kernels and their peers, on the same numbers.

A peer may come in several layouts of its inputs; the fastest of them is what it is measured by.
All are given the inputs in that layout beforehand: no peer pays for a copy.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.kernels.masked_attention import masked_attention

OURS = "medfocus"
CHECKED_IMAGES = 4  # that are compared with float64
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class KernelImplementation:
    """One way to compute what a comparison asks for.

    Attributes:
        name: several with one name are layouts of one contender.
        layout: of its inputs, in words.
        build: makes its inputs; what that returns does the work.
        answer: from what the work returns to the comparison's own layout.
        path: after a run, what ran.
        graph: whether a CUDA graph can hold it.
        flop, bytes: where they are not the comparison's.
    """

    name: str
    layout: str
    build: Callable[[], Run]
    answer: Callable[[Tensor], Tensor] = lambda output: output
    path: Callable[[], str] = lambda: "PyTorch"
    graph: bool = True
    flop: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Contenders for one job.

    Attributes:
        kernel: our function's name.
        shape: sizes by their letters, or what they belong to.
        dtype: of the tokens.
        flop: of the matrix products, as the job defines them.
        bytes: each input read once, each output written once.
        exact: the first images' answer in float64.
        contenders: ours is first.
        slowdown: products that a product takes, 6 for float32.
    """

    kernel: str
    shape: dict[str, int | str]
    dtype: torch.dtype
    flop: float
    bytes: float
    exact: Callable[[], Tensor]
    contenders: list[KernelImplementation]
    slowdown: int = 1


def ran(kernel: str) -> Callable[[], str]:
    """The path that our function took."""
    return lambda: dispatch.last_path(kernel)


def rounded_bias(*shape: int, device: str) -> Tensor:
    """A float32 bias of numbers that bfloat16 holds, so that peers in bfloat16 get the same."""
    return (-5 * torch.rand(*shape, device=device)).bfloat16().float()


def masked(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """masked_attention; answers are (B, N, H·D)."""
    torch.manual_seed(tokens)
    qkv = torch.randn(batch, tokens, 3 * heads * width, device=device).to(dtype)
    bias = rounded_bias(batch, tokens, device=device)
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
        contenders=[*ours, *attention_peers(qkv, bias, heads)],
    )


def exact_attention(qkv: Tensor, bias: Tensor, heads: int) -> Tensor:
    """The formula in float64: (B, N, 3·H·D), (B, N) -> (B, N, H·D)."""
    q, k, v = split_heads(qkv.double(), heads)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + bias.double()[:, None, None]
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


def attention_peers(qkv: Tensor, bias: Tensor, heads: int) -> Iterator[KernelImplementation]:
    """Peers of masked_attention on (B, N, 3·H·D) tokens and a (B, N) bias."""
    for (name, backend), layout, form in itertools.product(
        BACKENDS.items(), LAYOUTS, ("broadcast", "expanded")
    ):
        yield KernelImplementation(
            name,
            f"{layout}, bias {form} from rows of a multiple of 8",
            lambda b=backend, la=layout, f=form: sdpa(  # type: ignore[misc]
                b, [LAYOUTS[la](t) for t in split_heads(qkv, heads)], bias, f == "expanded"
            ),
            joined,
            path=lambda b=backend: b.name,  # type: ignore[misc]
        )
    yield KernelImplementation(
        "FlexAttention",
        "(B, H, N, D), float32 bias in score_mod, compiled",
        lambda: flex(qkv, bias, heads, torch.compile(flex_attention, dynamic=False)),
        joined,
    )
    yield KernelImplementation(
        "FlashAttention-4",
        "(B, N, H, D), float32 bias in score_mod",
        lambda: _flash_attention_4(qkv, bias, heads),
        lambda output: output.flatten(2),
        path=lambda: "CuTe",
    )


def aligned_mask(bias: Tensor, dtype: torch.dtype, queries: int, heads: int | None) -> Tensor:
    """(B, N) -> (B, 1, 1, N) or, with `heads`, (B, H, N, N), of no memory of its own.

    Its rows are a multiple of 8 apart: else the memory-efficient backend copies the mask.
    """
    batch, tokens = bias.shape
    # Cut last, so that dimensions of size 1 have strides that are a multiple of 8 as well.
    mask = F.pad(bias.to(dtype), (0, -tokens % 8))[:, None, None][..., :tokens]
    return mask if heads is None else mask.expand(batch, heads, queries, tokens)


def sdpa(backend: SDPBackend, qkv: list[Tensor], bias: Tensor, expanded: bool) -> Run:
    """PyTorch's attention on (B, H, N, D) each by one backend, which refuses if it cannot."""
    q, k, v = qkv
    mask = aligned_mask(bias, q.dtype, q.shape[2], q.shape[1] if expanded else None)

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return run


def flex(qkv: Tensor, bias: Tensor, heads: int, function: Callable[..., Any]) -> Run:
    """FlexAttention, by `flex_attention` itself or compiled."""
    q, k, v = (t.contiguous() for t in split_heads(qkv, heads))

    def add(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias[b, key]

    return lambda: function(q, k, v, score_mod=add)


def _flash_attention_4(qkv: Tensor, bias: Tensor, heads: int) -> Run:
    if find_spec("flash_attn") is None or find_spec("flash_attn.cute") is None:
        raise InputError("FlashAttention-4", "it is not installed", "install flash-attn-4")
    from medfocus.benchmarks.baselines.flash_attention_4 import attend

    q, k, v = (t.transpose(1, 2).contiguous() for t in split_heads(qkv, heads))
    return lambda: attend(q, k, v, bias)
