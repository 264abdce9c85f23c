"""The frozen models that every adaptation starts from."""

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
    """Where a preset's weights come from; None takes what is shipped.

    Attributes:
        clip, sam2: a file, or owner/name@<commit>:<file>.
        text_folder: of a Hugging Face text encoder.
    """

    clip: str | None = None
    sam2: str | None = None
    text_folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Backbones:
    """A CLIP and a SAM2 on one device. They are shared and never changed.

    Attributes:
        preset: their names, and CLIP's preprocessing.
        loaded: both towers of CLIP.
        clip: its image encoder.
        segmenter: SAM2 and the selection of its masks.
        segmenter_sha256: of SAM2's weight file.
        device: where all of it is.
    """

    preset: Preset
    loaded: LoadedClip
    clip: FocusCLIP
    segmenter: SegmenterGraph
    segmenter_sha256: str
    device: Device

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to an image before each of the two models."""
        return self.preset.preprocessing(self.clip, self.segmenter.segmenter)

    def check(self, image: SourceImage) -> None:
        """Raises an ImageError where CLIP's view of an image cannot be made."""
        classifier_view(image, self.preprocessing)

    @property
    def prompts(self) -> Prompts:
        """The zero-shot prompts that SAM2 gets."""
        return ZERO_SHOT

    def text(self, class_prompts: Sequence[str]) -> Tensor:
        """Class prompts, a sentence each, to class embeddings (C, E) of length 1, on the CPU."""
        return class_embeddings(self.loaded.model, self.loaded.tokenize, class_prompts, "{}")

    def zero_shot_head(
        self, classes: Sequence[str], class_prompts: Sequence[str], focus: Focus
    ) -> Head:
        """The head that learned nothing: the class prompts' embeddings."""
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
            InputError: a head that was made with another CLIP or other weights.
            WeightsError: an adapter that does not fit this image encoder.
        """
        if (head.clip, head.clip_sha256) != (self.preset.clip, self.loaded.sha256):
            raise InputError(
                "head",
                f"was made with {head.clip}, or with other weights of it",
                "give the preset and the weights that it was made with",
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
        weights: files; what is shipped where there are none.
        device: `auto` takes CUDA where there is one.

    Raises:
        InputError: an unknown name, or `cuda` where there is none.
        WeightsError: weights that are missing, unsafe or do not fit.
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
    """`auto` is CUDA where there is one.

    Raises:
        InputError: `cuda` where there is none.
    """
    if name != "cpu" and torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise InputError("device cuda", "torch sees no CUDA device", "use cpu or auto")
    return "cpu"
