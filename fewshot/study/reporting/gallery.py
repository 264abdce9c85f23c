"""Predictions as pictures: CLIP's input, its patch focus and the answer."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.examples import BATCH, Examples, classifier_inputs
from medfocus.models.head import Head
from medfocus.settings import Focus


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """One prediction as a picture.

    Attributes:
        dataset, focus, adaptation: of the head.
        pixels: uint8 (R, R, 3), CLIP's view.
        patch_focus: (g, g) in [0, 1].
        focused: whether a region was found and steered CLIP.
        truth, answer: class names; probability: of the answer, after temperature scaling.
    """

    dataset: str
    focus: str
    adaptation: str
    pixels: NDArray[np.uint8]
    patch_focus: NDArray[np.float32]
    focused: bool
    truth: str
    answer: str
    probability: float

    @property
    def correct(self) -> bool:
        """Whether the answer is the true class."""
        return self.answer == self.truth


@torch.inference_mode()
def gallery(
    dataset: str, head: Head, examples: Examples, backbones: Backbones, each: int
) -> list[GalleryItem]:
    """Up to `each` correct and `each` wrong predictions."""
    graph = backbones.classifier(head, Focus(mode=head.focus))
    pictures: dict[bool, list[GalleryItem]] = {True: [], False: []}
    # In random order, since images may be sorted by class.
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, BATCH):
        if min(map(len, pictures.values())) >= each:
            break
        inputs = classifier_inputs(examples, rows, backbones, graph.focus)
        output = graph(*inputs)
        for place, row in enumerate(rows.tolist()):
            probability, answer = output.probabilities[place].cpu().max(0)
            item = GalleryItem(
                dataset,
                head.focus,
                head.adaptation,
                examples.pixels[row],
                output.patch_focus[place].cpu().numpy(),
                bool(output.focused[place]),
                head.classes[int(examples.labels[row])],
                head.classes[int(answer)],
                float(probability),
            )
            if len(pictures[item.correct]) < each:
                pictures[item.correct].append(item)
    return pictures[True] + pictures[False]
