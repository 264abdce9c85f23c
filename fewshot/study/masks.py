"""The masks that a study steers with: found, true, or somewhere else."""

from dataclasses import replace

import torch

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.run import Masks
from medfocus.fewshot.true_focus import logits_of_lesions

_SEED = 20  # of the random masks


def with_masks(examples: Examples, masks: Masks) -> Examples:
    """The examples with `masks` to steer them.

    `true` are the lesions' own, as an ideal segmenter would find them. `random` are the found ones
    shifted round the frame, each by an amount of its own: shape and size stay.

    Raises:
        InputError: `true` for a data set without lesion masks.
    """
    if masks == "found":
        return examples
    if masks == "true":
        if examples.lesions is None:
            raise InputError("true masks", "are not known", "leave the ablation out")
        return replace(examples, focus_logits=logits_of_lesions(examples.lesions))
    generator = torch.Generator().manual_seed(_SEED)
    height, width = examples.focus_logits.shape[1:]
    moved = [
        logits.roll(
            (
                int(torch.randint(height, (), generator=generator)),
                int(torch.randint(width, (), generator=generator)),
            ),
            (0, 1),
        )
        for logits in examples.focus_logits
    ]
    return replace(examples, focus_logits=torch.stack(moved))
