"""Class embeddings from class prompts, with open_clip's tokenizers and local vocabularies."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from open_clip import build_zero_shot_classifier
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from medfocus.errors import FileError, InputError
from medfocus.models.clip.architecture import clip_configuration, text_folder_of
from medfocus.settings import CLASS_PLACE, is_class_template

CLASS_PROMPT = "This is a photo of {class}"  # from the paper

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


def class_prompt(name: str, template: str = CLASS_PROMPT) -> str:
    """A class prompt: the template with the class's name."""
    return template.replace(CLASS_PLACE, name)


def check_template(template: str) -> str:
    """The template of a class prompt as it was given.

    Raises:
        InputError: it does not hold {class} once, holds another brace, or a character that cannot
            be printed (`input.class_prompt`).
    """
    if not is_class_template(template):
        raise InputError(
            f"class prompt {template!r}",
            "does not have the class's name in one place",
            "write {class} once and no other braces, as in 'a dermoscopy image of {class}'",
            code="input.class_prompt",
        )
    return template


def class_embeddings(
    clip: Any,
    tokenize: Tokenizer,
    classes: Sequence[str],
    templates: Sequence[str] = (CLASS_PROMPT,),
) -> Tensor:
    """Zero-shot class embeddings: (C, E) float32, each of length 1.

    With several templates it is their mean, each prompt's embedding at length 1 first (the prompt
    ensemble of CLIP's paper, arXiv 2103.00020, section 3.1.4, as open_clip computes it).

    Args:
        clip: both towers, open_clip's `CLIP` or `CustomTextCLIP`.
        tokenize: this CLIP's tokenizer.
        classes: C class names.
        templates: of class prompts, see `check_template`.

    Raises:
        InputError: a prompt is too long for the text encoder (`input.text_too_long`).
    """
    prompts = [partial(class_prompt, template=template) for template in templates]
    columns: Tensor = build_zero_shot_classifier(clip, tokenize, classes, prompts)  # (E, C)
    return columns.T.contiguous()
