"""Storing weights in the half precision that autocast would cast them to in every call."""

import torch
from torch import nn

from medfocus.models.clip.attention import PackedAttention
from medfocus.models.sam2.segmenter import Segmenter

PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, PackedAttention)


def store_half(graph: nn.Module, dtype: torch.dtype) -> None:
    """Cast once, in place, the weights that autocast would cast in every call.

    The outputs stay bitwise equal. LayerNorm, embeddings and everything that is not a matrix
    product stay in float32, and so do the convolutions that `Segmenter.pyramid` composes into one
    before casting.

    Args:
        graph: the segmenter or the classifier.
        dtype: autocast's, float16 or bfloat16.
    """
    composed: set[nn.Module] = set()
    for segmenter in graph.modules():
        if isinstance(segmenter, Segmenter):
            _, _, finer, finest = segmenter.image_encoder.neck.convs
            decoder = segmenter.sam_mask_decoder
            composed |= {finer.conv, finest.conv, decoder.conv_s0, decoder.conv_s1}
    for module in graph.modules():
        if isinstance(module, PRODUCTS) and module not in composed:
            module.to(dtype)
