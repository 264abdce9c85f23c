"""FlashAttention-4 with one bias per key, where its package (CuTe) is installed."""

import cutlass
import cutlass.cute as cute
from flash_attn.cute.interface import _flash_attn_fwd
from torch import Tensor


# The parameters' names are FlashAttention-4's: it passes them by name.
@cute.jit
def _add_key_bias(scores, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
    bias = aux_tensors[0]
    image, key = cute.make_fragment(1, cutlass.Int32), cute.make_fragment(1, cutlass.Int32)
    image.store(b_idx)
    key.store(kv_idx)
    found = cute.make_fragment(1, cutlass.Float32)
    found[0] = bias[image[0], key[0]]
    return scores + found.load()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(B, N, H, D) queries, keys and values, (B, N) float32 bias -> (B, N, H, D)."""
    output: Tensor = _flash_attn_fwd(
        q, k, v, causal=False, score_mod=_add_key_bias, aux_tensors=[bias]
    )[0]
    return output
