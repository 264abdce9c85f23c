"""The masks that steer CLIP in a study: found by SAM2, true, or random."""

from dataclasses import replace

import torch

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.run import Masks
from medfocus.fewshot.true_focus import logits_of_lesions

_SEED = 20  # of the random masks


def with_masks(examples: Examples, masks: Masks) -> Examples:
    """Replace the examples' focus masks.

    `true` masks are those of the lesions, as an ideal segmenter would find them. `random` masks are
    the found ones, each shifted cyclically by a random offset, which keeps shape and size.

    Raises:
        InputError: `true` masks of a data set without lesion masks.
    """
    if masks == "found":
        return examples
    if masks == "true":
        if examples.lesions is None:
            raise InputError(
                "true masks", "are unknown", "leave the ablation out", code="dataset.no_masks"
            )
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
