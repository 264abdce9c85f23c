"""Attention on the key-biased, packed-QKV form that the models use."""

from medfocus.kernels.masked_attention import masked_attention

__all__ = ["masked_attention"]
