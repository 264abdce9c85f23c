"""Replacements for the attention modules of CLIP's libraries, on packed QKV with a bias per key."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medfocus.kernels import cls_attention, masked_attention, masked_attention_varlen


class PackedAttention(nn.Module):
    """Attention with q, k and v from one projection, in the three variants the encoder needs."""

    num_heads: int

    def projection(self) -> tuple[Tensor, Tensor | None]:
        """Weight (3·W, W) and bias (3·W,) of q, k and v."""
        raise NotImplementedError

    def output(self, attended: Tensor) -> Tensor:
        """The output projection: (..., W) -> (..., W)."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) tokens, (B, N) bias or None -> (B, N, W)."""
        qkv = F.linear(tokens, *self.projection())
        return self.output(masked_attention(qkv, key_bias, self.num_heads))

    def cls_row(self, tokens: Tensor, key_bias: Tensor | None) -> Tensor:
        """(B, N, W) -> (B, W): the first row of `forward`, computed without the others."""
        weight, bias = self.projection()
        width = weight.shape[0] // 3
        q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
        q = F.linear(tokens[:, 0], weight[:width], q_bias)
        kv = F.linear(tokens, weight[width:], kv_bias)
        return self.output(cls_attention(q, kv, key_bias, self.num_heads))

    def ragged(self, tokens: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """(T, W) tokens of all images -> (T, W); each attends to the tokens of its own image."""
        qkv = F.linear(tokens, *self.projection())
        return self.output(
            masked_attention_varlen(qkv, None, cu_seqlens, max_seqlen, self.num_heads)
        )


class OpenClipAttention(PackedAttention):
    """Replaces `nn.MultiheadAttention`, with its parameter names."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def projection(self) -> tuple[Tensor, Tensor | None]:
        """See `PackedAttention`."""
        return self.in_proj_weight, self.in_proj_bias

    def output(self, attended: Tensor) -> Tensor:
        """See `PackedAttention`."""
        projected: Tensor = self.out_proj(attended)
        return projected


class TimmAttention(PackedAttention):
    """Replaces timm's `Attention`, with its parameter names."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj

    def projection(self) -> tuple[Tensor, Tensor | None]:
        """See `PackedAttention`."""
        return self.qkv.weight, self.qkv.bias

    def output(self, attended: Tensor) -> Tensor:
        """See `PackedAttention`."""
        projected: Tensor = self.proj(attended)
        return projected
