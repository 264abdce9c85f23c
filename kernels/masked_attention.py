"""Self-attention with one additive bias a key, on QKV as the projection wrote it."""

import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import InputError


def masked_attention(
    qkv: Tensor, key_bias: Tensor | None, num_heads: int, scale: float | None = None
) -> Tensor:
    """Attention `softmax(scale · q kᵀ + key_bias) v`, a bias number a key.

    Args:
        qkv: (B, N, 3·H·D) floating point; q, k and v side by side, each with its heads in order.
        key_bias: (B, N) or (B, H, N), added to the logits of every query; None adds nothing.
            A query all of whose keys are at -inf gives zeros.
        num_heads: H.
        scale: factor on q kᵀ; D^-0.5 when None.

    Returns:
        (B, N, H·D) in the dtype of `qkv`, ready for the output projection.

    Raises:
        InputError: shapes that do not fit together.
    """
    batch, tokens, packed = qkv.shape
    if packed % (3 * num_heads):
        raise InputError(
            "qkv", f"last dimension {packed} is no multiple of 3·{num_heads}", "pass (B, N, 3·H·D)"
        )
    # (B, N, 3·H·D) -> 3 × (B, H, N, D)
    q, k, v = qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if key_bias is None:
        heads = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        bias = _broadcast_over_queries(key_bias, batch, num_heads, tokens).to(q.dtype)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # (B, H, N, D) -> (B, N, H·D)
    return heads.transpose(1, 2).reshape(batch, tokens, -1)


def _broadcast_over_queries(key_bias: Tensor, batch: int, num_heads: int, tokens: int) -> Tensor:
    """(B, N) or (B, H, N) -> (B, 1 or H, 1, N)."""
    if key_bias.shape == (batch, tokens):
        return key_bias[:, None, None, :]
    if key_bias.shape == (batch, num_heads, tokens):
        return key_bias[:, :, None, :]
    raise InputError(
        "key_bias",
        f"shape {tuple(key_bias.shape)} fits neither (B, N) = ({batch}, {tokens})"
        f" nor (B, H, N) = ({batch}, {num_heads}, {tokens})",
        "pass one number a key",
    )
