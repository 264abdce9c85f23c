"""Measures a head's attention against the lesions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.evaluation.explanation import (
    attention_rollout,
    deletion_insertion,
    iou,
    mass_inside,
    pointing_game,
)
from medfocus.fewshot.examples import Examples, classifier_inputs
from medfocus.kernels import focus_bias
from medfocus.models.focus import hiding_bias, kept_tokens, paint, pool_focus
from medfocus.models.graphs import ClassifierGraph, ClassifierOutput
from medfocus.models.head import Head
from medfocus.settings import Focus

STEPS = 10
BATCH = 25


@dataclass(frozen=True)
class Explanation:
    """Means over test images with a lesion.

    Attributes:
        dataset, focus, adaptation: of the head.
        images: their number.
        pointing: how often the patch with the most attention touches the lesion.
        mass: share of the attention on the lesion.
        area: share of the image covered by the lesion: the mass of uniform attention.
        iou: intersection over union of SAM2's mask and the lesion.
        deletion, insertion: areas under RISE's curves, with patches ordered by attention.
    """

    dataset: str
    focus: str
    adaptation: str
    images: int
    pointing: float
    mass: float
    area: float
    iou: float
    deletion: float
    insertion: float


@torch.inference_mode()
def explain(dataset: str, head: Head, examples: Examples, backbones: Backbones) -> Explanation:
    """Measure a head's attention on images with known lesions.

    Args:
        dataset: its name.
        head: without visual prompts.
        examples: test images with their lesions.
        backbones: the frozen models.
    """
    assert examples.lesions is not None
    graph = backbones.classifier(head, Focus(mode=head.focus))
    measures = []
    for rows in torch.split(torch.arange(len(examples)), BATCH):
        measures.append(_measures(graph, examples.take(rows), backbones))
    pointing, mass, area, overlap, deletion, insertion = torch.cat(measures, 1).mean(1).tolist()
    return Explanation(
        dataset,
        head.focus,
        head.adaptation,
        len(examples),
        pointing,
        mass,
        area,
        overlap,
        deletion,
        insertion,
    )


def _measures(graph: ClassifierGraph, examples: Examples, backbones: Backbones) -> Tensor:
    """The six measures of each image: (6, B)."""
    assert examples.lesions is not None
    rows = torch.arange(len(examples))
    image, focus_logits, over_rows, over_cols = classifier_inputs(
        examples, rows, backbones, graph.focus
    )
    plain = classifier_inputs(examples, rows, backbones, Focus(mode="none"))
    lesion = plain[2] @ examples.lesions.to(image.device) @ plain[3].transpose(1, 2)  # (B, g, g)
    seen, key_bias = _clip_input(graph, image, focus_logits, over_rows, over_cols)
    attention = attention_rollout(graph.clip, seen, key_bias)

    def predict(pictures: Tensor) -> Tensor:
        output: ClassifierOutput = graph(pictures, focus_logits, over_rows, over_cols)
        return output.probabilities

    label = examples.labels.to(image.device)
    # Deleted patches get the mean colour of CLIP's training images, which is 0 once normalised.
    deletion, insertion = deletion_insertion(
        predict, image, attention, image.new_zeros(()), label, STEPS
    )
    overlap = iou(focus_logits > 0, examples.lesions.to(image.device) > 0.5)
    return torch.stack(
        [
            pointing_game(attention, lesion).float(),
            mass_inside(attention, lesion),
            lesion.mean((1, 2)),
            overlap,
            deletion,
            insertion,
        ]
    ).cpu()


def _clip_input(
    graph: ClassifierGraph, image: Tensor, focus_logits: Tensor, rows: Tensor, cols: Tensor
) -> tuple[Tensor, Tensor | None]:
    """CLIP's input image and the bias of each layer, in any focus mode."""
    focus = graph.focus
    if focus.mode == "none":
        return image, None
    if focus.mode == "overlay":
        output = graph(image, focus_logits, rows, cols)
        pixels = pool_focus(focus_logits, rows, cols) * output.focused[:, None, None]
        return paint(image, pixels, graph.colour), None
    bias, patch_focus, focused = focus_bias(
        focus_logits, rows, cols, graph.strength, focus.floor, focus.visible
    )
    if focus.mode == "hard":
        bias = hiding_bias(kept_tokens(patch_focus, focused, focus), graph.clip.layers)
    return image, bias
