"""Ragged batches and the single query row: our kernels and other implementations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.benchmarks.baselines.attention import (
    CHECKED_IMAGES,
    OURS,
    Comparison,
    KernelImplementation,
    exact_attention,
    joined,
    ran,
    rounded_bias,
    sdpa_baselines,
    split_heads,
)
from medfocus.kernels.cls_attention import cls_attention
from medfocus.kernels.masked_attention import masked_attention
from medfocus.kernels.masked_attention_varlen import masked_attention_varlen

KEPT = 0.3  # of an image's tokens, as `hard` focus keeps them


def ragged(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """masked_attention_varlen at 30% kept on average; answers are the first images' tokens."""
    generator = torch.Generator().manual_seed(tokens)
    spread = int(KEPT * tokens) // 2
    middle = int(KEPT * tokens)
    lengths = torch.randint(middle - spread, middle + spread + 1, (batch,), generator=generator)
    longest, offsets = int(lengths.max()), F.pad(lengths.cumsum(0), (1, 0))
    inside = (torch.arange(longest) < lengths[:, None]).to(device)
    padded = torch.randn(batch, longest, 3 * heads * width, device=device).to(dtype)
    qkv, cu_seqlens = padded[inside], offsets.int().to(device)
    bias = rounded_bias(batch, longest, device=device)
    own_bias, hiding = bias[inside], bias.masked_fill(~inside, -1e4)
    checked = int(offsets[CHECKED_IMAGES])
    row = heads * width * dtype.itemsize

    def kept(output: Tensor) -> Tensor:
        """(B, longest, H·D) -> (T', H·D)."""
        return output[inside[: len(output)]][:checked]

    return Comparison(
        kernel="masked_attention_varlen",
        shape={"B": batch, "H": heads, "N": f"{int(lengths.min())}-{longest}", "D": width},
        dtype=dtype,
        flop=4.0 * heads * width * float((lengths**2).sum()),
        bytes=4.0 * len(qkv) * row + own_bias.numel() * 4,
        exact=lambda: kept(
            exact_attention(padded[:CHECKED_IMAGES], hiding[:CHECKED_IMAGES], heads)
        ),
        implementations=[
            KernelImplementation(
                OURS,
                "packed (T, 3·H·D)",
                lambda: lambda: masked_attention_varlen(qkv, own_bias, cu_seqlens, longest, heads),
                lambda output: output[:checked],
                path=ran("masked_attention_varlen"),
            ),
            KernelImplementation(
                f"{OURS}, padded",
                "packed (B, longest, 3·H·D), padding hidden",
                lambda: lambda: masked_attention(padded, hiding, heads),
                kept,
                path=ran("masked_attention"),
            ),
            *sdpa_baselines(
                lambda: split_heads(padded, heads),
                hiding,
                ", padded, padding hidden",
                lambda output: kept(joined(output)),
            ),
        ],
    )


def cls_row(
    batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> Comparison:
    """cls_attention; answers are (B, H·D)."""
    torch.manual_seed(tokens)
    q = torch.randn(batch, heads * width, device=device).to(dtype)
    kv = torch.randn(batch, tokens, 2 * heads * width, device=device).to(dtype)
    bias = rounded_bias(batch, tokens, device=device)

    def exact() -> Tensor:
        packed = torch.cat([q[:, None].expand(-1, tokens, -1), kv], -1)[:CHECKED_IMAGES]
        return exact_attention(packed, bias[:CHECKED_IMAGES], heads)[:, 0]

    def inputs() -> tuple[Tensor, ...]:
        return q.unflatten(-1, (heads, 1, width)), *split_heads(kv, heads, 2)

    return Comparison(
        kernel="cls_attention",
        shape={"B": batch, "H": heads, "N": tokens, "D": width},
        dtype=dtype,
        flop=4.0 * batch * heads * tokens * width,
        bytes=float((q.numel() * 2 + kv.numel()) * dtype.itemsize + bias.numel() * 4),
        exact=exact,
        implementations=[
            KernelImplementation(
                OURS,
                "packed (B, N, 2·H·D)",
                lambda: lambda: cls_attention(q, kv, bias, heads),
                path=ran("cls_attention"),
            ),
            *sdpa_baselines(inputs, bias, "", lambda output: output.flatten(1)),
        ],
    )
