"""Class embeddings from class prompts, with open_clip's tokenizers and local vocabularies."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from medfocus.errors import FileError, InputError
from medfocus.models.clip.architecture import clip_configuration, text_folder_of

CLASS_PROMPT = "This is a photo of {}"  # from the paper

Tokenizer = Callable[[Sequence[str]], Tensor]  # T texts -> (T, context length) int64


def tokenizer_for(architecture: str, text_folder: Path | None = None) -> Tokenizer:
    """The tokenizer that a CLIP was trained with.

    CLIP's byte-pair vocabulary is part of open_clip; a Hugging Face text encoder's is in the
    folder of its configuration.

    Raises:
        InputError: the name is unknown (`model.unknown`).
        FileError: the text encoder's folder is missing or unusable (`model.text_encoder`).
    """
    text = clip_configuration(architecture)["text_cfg"]
    length: int = text.get("context_length", 77)
    if "hf_model_name" not in text:
        simple = SimpleTokenizer()
        return partial(_tokenize, simple, lambda words: len(simple.encode(words)) + 2, length)
    folder = text_folder_of(architecture, text_folder)
    try:
        tokenizer = HFTokenizer(str(folder), context_length=length)
    except (OSError, ValueError) as error:
        raise FileError(
            str(folder),
            "contains no tokenizer that can be loaded",
            "put the text encoder's vocabulary and tokenizer files there",
            code="model.text_encoder",
        ) from error
    return partial(
        _tokenize, tokenizer, lambda words: len(tokenizer.tokenizer(words)["input_ids"]), length
    )


def _tokenize(
    tokenizer: Any, count: Callable[[str], int], length: int, texts: Sequence[str]
) -> Tensor:
    """Tokenize, but refuse texts that upstream would truncate silently."""
    for text in texts:
        if count(text) > length:
            raise InputError(
                f"class prompt {text!r}",
                f"is longer than {length} tokens",
                "shorten it",
                code="input.text_too_long",
            )
    tokens: Tensor = tokenizer(list(texts), context_length=length)
    return tokens


@torch.no_grad()
def class_embeddings(
    clip: Any, tokenize: Tokenizer, classes: Sequence[str], prompt: str = CLASS_PROMPT
) -> Tensor:
    """Zero-shot class embeddings: (C, E) float32, each of length 1.

    Args:
        clip: both towers, open_clip's `CLIP` or `CustomTextCLIP`.
        tokenize: this CLIP's tokenizer.
        classes: C class names.
        prompt: a sentence with `{}` in the place of the class name.
    """
    tokens = tokenize([prompt.format(name) for name in classes])
    return F.normalize(clip.encode_text(tokens).float(), dim=-1)
