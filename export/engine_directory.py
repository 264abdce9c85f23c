"""Models, head and settings to an engine directory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

import medfocus
from medfocus.engine.artifact import write_engine_directory, write_manifest
from medfocus.engine.manifest import (
    ClipModel,
    Manifest,
    Models,
    Producer,
    Sam2Model,
)
from medfocus.errors import InputError
from medfocus.models.clip import FocusCLIP
from medfocus.models.head import Head
from medfocus.models.presets import ZERO_SHOT, Preset
from medfocus.models.segmenter import Segmenter
from medfocus.settings import Focus, Selection


@dataclass(frozen=True, eq=False)
class Parts:
    """What goes into an engine directory.

    Attributes:
        preset: names the architectures and CLIP's preprocessing.
        clip, segmenter: the models, with their weights; *_sha256: of the files they came from.
        head: classes, class embeddings, strengths.
        focus, selection: the settings.
    """

    preset: Preset
    clip: FocusCLIP
    clip_sha256: str
    segmenter: Segmenter
    segmenter_sha256: str
    head: Head
    focus: Focus
    selection: Selection


def build(target: Path, parts: Parts, *, force: bool = False) -> Manifest:
    """Write an engine directory for the torch backend, whole or not at all.

    Raises:
        InputError: a head that was made for another CLIP.
        EngineDirectoryError: `target` exists (without `force`) or cannot be written.
    """
    if parts.head.clip != parts.preset.clip:
        raise InputError(
            "head",
            f"was made for {parts.head.clip}, and this engine has {parts.preset.clip}",
            "make the head with this engine's CLIP",
        )
    with write_engine_directory(target, force=force) as staging:
        save_file(_contiguous(parts.segmenter), staging / "segmenter.safetensors")
        save_file(_contiguous(parts.clip), staging / "classifier.safetensors")
        save_file(parts.head.tensors(), staging / "head.safetensors")
        return write_manifest(staging, _manifest(parts))


def _contiguous(module: FocusCLIP | Segmenter) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _manifest(parts: Parts) -> Manifest:
    return Manifest(
        producer=Producer("medfocus", medfocus.__version__),
        models=Models(
            ClipModel(parts.preset.clip, parts.clip_sha256),
            Sam2Model(parts.preset.sam2, parts.segmenter.image_size, parts.segmenter_sha256),
        ),
        precision="fp32",
        focus=parts.focus,
        selection=parts.selection,
        prompts=ZERO_SHOT,
        preprocessing=parts.preset.preprocessing(parts.clip, parts.segmenter),
        classes=parts.head.classes,
        buckets=(1, 8, 32),
        files={},
        parity={},
    )
