"""Class prompts to class embeddings, with open_clip's tokenizer and its local vocabulary."""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from medfocus.errors import InputError

CLASS_PROMPT = "This is a photo of {}"  # the paper's


class TextEncoder(Protocol):
    """What a CLIP must offer: tokens (C, T) int64 -> embeddings (C, E)."""

    context_length: int

    def encode_text(self, text: Tensor) -> Tensor:
        """(C, T) int64 -> (C, E)."""


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()  # its vocabulary file ships inside open_clip


def tokenize(texts: Sequence[str], context_length: int) -> Tensor:
    """Texts to (len(texts), context_length) int64 tokens of CLIP's byte-pair vocabulary.

    Raises:
        InputError: a text longer than the context, which upstream would cut silently.
    """
    tokenizer = _tokenizer()
    for text in texts:
        if len(tokenizer.encode(text)) > context_length - 2:
            raise InputError(
                f"class prompt {text!r}", f"more than {context_length - 2} tokens", "shorten it"
            )
    tokens: Tensor = tokenizer(list(texts), context_length=context_length)
    return tokens


@torch.inference_mode()
def class_embeddings(
    clip: TextEncoder, classes: Sequence[str], prompt: str = CLASS_PROMPT
) -> Tensor:
    """Zero-shot class embeddings: (C, E) float32, each of length 1.

    Args:
        clip: both towers, as `build_clip` makes them.
        classes: C class names.
        prompt: a sentence with `{}` where the class name goes.
    """
    tokens = tokenize([prompt.format(name) for name in classes], clip.context_length)
    return F.normalize(clip.encode_text(tokens).float(), dim=-1)
