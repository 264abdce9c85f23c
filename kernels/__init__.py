"""CLIP's and SAM2's attention as Triton kernels, each with a PyTorch reference."""

from medfocus.kernels.cls_attention import cls_attention
from medfocus.kernels.focus_bias import FocusBias, focus_bias
from medfocus.kernels.masked_attention import masked_attention
from medfocus.kernels.masked_attention_varlen import masked_attention_varlen
from medfocus.kernels.window_attention import window_attention

__all__ = [
    "FocusBias",
    "cls_attention",
    "focus_bias",
    "masked_attention",
    "masked_attention_varlen",
    "window_attention",
]
