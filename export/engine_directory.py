"""Models, head and settings to an engine directory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

import medfocus
from medfocus.engine.artifact import (
    CLASSIFIER_WEIGHTS,
    HEAD_WEIGHTS,
    SEGMENTER_WEIGHTS,
    write_engine_directory,
    write_manifest,
)
from medfocus.engine.manifest import (
    ClipModel,
    Manifest,
    Models,
    Producer,
    Sam2Model,
)
from medfocus.errors import EngineDirectoryError, InputError
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
        InputError: a head that was made for another CLIP or focus mode.
        EngineDirectoryError: `target` exists (without `force`) or cannot be written.
    """
    _check_head(parts)
    with write_engine_directory(target, force=force) as staging:
        for name, tensors in (
            (SEGMENTER_WEIGHTS, _contiguous(parts.segmenter)),
            (CLASSIFIER_WEIGHTS, _contiguous(parts.clip)),
            (HEAD_WEIGHTS, parts.head.tensors()),
        ):
            _write(staging / name, save(tensors))
        return write_manifest(staging, _manifest(parts))


def _check_head(parts: Parts) -> None:
    head, mend = parts.head, "make the head with this engine's CLIP and focus mode"
    if head.clip != parts.preset.clip:
        problem = f"was made for {head.clip}, and this engine has {parts.preset.clip}"
        raise InputError("head", problem, mend)
    if head.clip_sha256 != parts.clip_sha256:
        raise InputError("head", f"was made for other weights of {head.clip}", mend)
    if head.focus != parts.focus.mode:
        problem = f"was made with focus {head.focus}, and this engine has {parts.focus.mode}"
        raise InputError("head", problem, mend)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise EngineDirectoryError(
            str(path.parent),
            f"cannot be written ({error.strerror})",
            "make room, or choose another place",
        ) from error


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
