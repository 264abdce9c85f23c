"""True and random masks."""

from dataclasses import replace

import torch

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.masks import with_masks
from medfocus.fewshot.true_focus import logits_of_lesions
from tests.errors import refuses


def test_random_masks_keep_shape_and_size(examples: Examples) -> None:
    moved = with_masks(examples, "random")
    again = with_masks(examples, "random")
    assert torch.equal(moved.focus_logits, again.focus_logits)
    for before, after in zip(examples.focus_logits, moved.focus_logits, strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
    assert (moved.focus_logits != examples.focus_logits).flatten(1).any(1).all()
    assert examples.lesions is not None
    overlap = ((moved.focus_logits > 0) & (examples.lesions > 0.5)).float().mean()
    found = ((examples.focus_logits > 0) & (examples.lesions > 0.5)).float().mean()
    assert overlap < 0.3 * found


def test_true_masks(examples: Examples) -> None:
    assert examples.lesions is not None
    true = with_masks(examples, "true")
    torch.testing.assert_close(true.focus_logits.sigmoid(), examples.lesions, atol=1e-6, rtol=0)
    assert with_masks(examples, "found") is examples
    with refuses(InputError, "dataset.no_masks", "true masks"):
        with_masks(replace(examples, lesions=None), "true")


def test_no_lesion_is_no_region() -> None:
    """With the segmenter's logits for no region, so that plain CLIP is used."""
    assert (logits_of_lesions(torch.zeros(2, 4, 4)) == -32).all()
