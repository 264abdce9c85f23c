"""The frozen models that all adaptations start from."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import classifier_view
from medfocus.errors import InputError
from medfocus.models.clip.adapter import apply_adapter
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.clip.text import class_embeddings
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.head import Head, graph_tensors, uniform_strength
from medfocus.models.loading import LoadedClip, load_clip, load_segmenter
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, ZERO_SHOT, Preset, preset
from medfocus.settings import Device, Focus, Preprocessing, Prompts, Selection


@dataclass(frozen=True)
class WeightSources:
    """Where a preset's weights come from; None selects the preset's own.

    Attributes:
        clip, sam2: a file, or owner/name@<commit>:<file> on the Hugging Face hub.
        text_folder: the folder of a Hugging Face text encoder.
    """

    clip: str | None = None
    sam2: str | None = None
    text_folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Backbones:
    """A CLIP and a SAM2 on one device, shared and never modified.

    Attributes:
        preset: the model names and CLIP's preprocessing.
        loaded: both towers of CLIP.
        clip: CLIP's image encoder.
        segmenter: SAM2 and the selection of its masks.
        segmenter_sha256: hash of SAM2's weight file.
        device: of the image encoder and the segmenter.
    """

    preset: Preset
    loaded: LoadedClip
    clip: FocusCLIP
    segmenter: SegmenterGraph
    segmenter_sha256: str
    device: Device

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for each of the two models."""
        return self.preset.preprocessing(self.clip, self.segmenter.segmenter)

    def check(self, image: SourceImage) -> None:
        """Check that CLIP's view of an image can be made.

        Raises:
            ImageError: it cannot.
        """
        classifier_view(image, self.preprocessing)

    @property
    def prompts(self) -> Prompts:
        """The zero-shot prompts for SAM2."""
        return ZERO_SHOT

    def text(self, class_prompts: Sequence[str]) -> Tensor:
        """Embed C class prompts, one sentence each: (C, E) of length 1, on the CPU."""
        whole = ("{class}",)
        return class_embeddings(self.loaded.model, self.loaded.tokenize, class_prompts, whole)

    def zero_shot_head(
        self, classes: Sequence[str], class_prompts: Sequence[str], focus: Focus
    ) -> Head:
        """The untrained head: the embeddings of the class prompts."""
        return Head(
            self.preset.clip,
            self.loaded.sha256,
            focus.mode,
            tuple(classes),
            self.text(class_prompts),
            self.loaded.logit_scale.cpu(),
            uniform_strength(self.clip.layers, self.preset.strength),
        )

    def classifier(self, head: Head, focus: Focus) -> ClassifierGraph:
        """The classifier's graph with this head, in evaluation mode, on the device.

        Raises:
            InputError: the head was trained with another CLIP or other weights.
            WeightsError: the head's adapter does not fit this image encoder.
        """
        if (head.clip, head.clip_sha256) != (self.preset.clip, self.loaded.sha256):
            raise InputError(
                "head",
                f"was trained with {head.clip}, or with other weights of it",
                "pass the preset and the weights that it was trained with",
                code="head.model_mismatch",
            )
        clip = self.clip
        if head.adapter:
            clip = deepcopy(clip)
            apply_adapter(clip, head.adapter)
        graph = ClassifierGraph(
            clip, focus, mean=CLIP_MEAN, std=CLIP_STD, **graph_tensors(head.tensors())
        )
        return graph.eval().to(self.device)


def load_backbones(
    preset_name: str, weights: WeightSources = WeightSources(), device: str = "auto"
) -> Backbones:
    """The models of a preset with their weights.

    Args:
        preset_name: a name from `PRESETS`.
        weights: overrides the preset's own weights.
        device: "cpu", "cuda", or "auto" for CUDA if available.

    Raises:
        InputError: an unknown preset, or CUDA is not available.
        WeightsError: weights are missing, unsafe or do not fit.
    """
    chosen = preset(preset_name)
    place = choose_device(device)
    loaded = load_clip(chosen.clip, weights.clip, weights.text_folder)
    segmenter, segmenter_sha256 = load_segmenter(chosen.sam2, weights.sam2)
    clip = FocusCLIP(loaded.model.visual).eval().to(place)
    graph = SegmenterGraph(segmenter, Selection()).eval().to(place)
    for module in (clip, graph):
        module.requires_grad_(False)
    return Backbones(chosen, loaded, clip, graph, segmenter_sha256, place)


def choose_device(name: str) -> Device:
    """Resolve "auto" to CUDA if available, otherwise the CPU.

    Raises:
        InputError: "cuda", but torch sees no CUDA device.
    """
    if name != "cpu" and torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise InputError(
            "device cuda",
            "torch sees no CUDA device",
            "use cpu or auto",
            code="device.unavailable",
        )
    return "cpu"
