"""CLIP architectures by name, and how to build them with random weights.

Files contain only names, as for SAM2 (models/sam2/architecture.py).
"""

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP, CustomTextCLIP, _build_vision_tower
from torch import nn

from medfocus.errors import FileError, InputError

# In open_clip's configuration format. BiomedCLIP's is the open_clip_config.json of its model card;
# all other names are open_clip's.
CLIP_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "medfocus_tiny": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 112,
            "patch_size": 8,
            "width": 128,
            "head_width": 64,
            "layers": 6,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 32,
            "heads": 1,
            "layers": 2,
        },
    },
    "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
}


def clip_configuration(architecture: str) -> dict[str, Any]:
    """open_clip's configuration of a CLIP, looked up by name.

    Raises:
        InputError: neither medfocus nor open_clip knows the name (`model.unknown`).
    """
    configuration = CLIP_CONFIGURATIONS.get(architecture)
    if configuration is None and architecture in open_clip.list_models():
        configuration = open_clip.get_model_config(architecture)
    if configuration is None:
        raise InputError(
            f"CLIP architecture {architecture!r}",
            "not known",
            "use one of " + ", ".join(CLIP_CONFIGURATIONS) + " or a name from"
            " open_clip.list_models()",
            code="model.unknown",
        )
    return configuration


def build_vision_tower(architecture: str) -> nn.Module:
    """The image encoder of a CLIP by name, with random weights, as open_clip builds it."""
    configuration = clip_configuration(architecture)
    tower: nn.Module = _build_vision_tower(
        configuration["embed_dim"],
        configuration["vision_cfg"],
        quick_gelu=configuration.get("quick_gelu", False),
    )
    return tower


def build_clip(architecture: str, text_folder: Path | None = None) -> CLIP | CustomTextCLIP:
    """Both towers of a CLIP by name, with random weights, as open_clip builds them.

    Args:
        architecture: a name known to medfocus or open_clip.
        text_folder: configuration and vocabulary of a Hugging Face text encoder, where the CLIP
            has one; nothing is downloaded.

    Raises:
        InputError: the name is unknown (`model.unknown`).
        FileError: the text encoder's folder is missing or unusable (`model.text_encoder`).
    """
    configuration = deepcopy(clip_configuration(architecture))
    custom_text = configuration.pop("custom_text", False)
    if "hf_model_name" not in configuration["text_cfg"]:
        kind = CustomTextCLIP if custom_text else CLIP
        return kind(**configuration)
    folder = text_folder_of(architecture, text_folder)
    configuration["text_cfg"]["hf_model_name"] = str(folder)
    try:
        return CustomTextCLIP(**configuration)
    except (OSError, ValueError, KeyError) as error:
        raise FileError(
            str(folder),
            "contains no text encoder configuration that can be loaded",
            "put the text encoder's config.json there",
            code="model.text_encoder",
        ) from error


def text_folder_of(architecture: str, text_folder: Path | None) -> Path:
    """Check that a Hugging Face text encoder's folder and library exist, and return the folder.

    Raises:
        InputError: transformers is not installed (`backend.not_installed`).
        FileError: no folder is given, or it does not exist (`model.text_encoder`).
    """
    encoder = clip_configuration(architecture)["text_cfg"]["hf_model_name"]
    if find_spec("transformers") is None:
        raise InputError(
            f"text encoder of {architecture}",
            "needs transformers, which is not installed",
            "pip install 'medfocus[biomed]'",
            code="backend.not_installed",
        )
    if text_folder is None or not text_folder.is_dir():
        where = "no folder is given" if text_folder is None else f"{text_folder} is no folder"
        raise FileError(
            f"text encoder of {architecture}",
            f"needs the configuration and vocabulary of {encoder}, and {where}",
            "give the folder with its config.json and tokenizer files with --text-folder",
            code="model.text_encoder",
        )
    return text_folder
