"""Selection, compared with a loop over the candidates in numpy."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.models.sam2.selection import UNION_FLOOR, select_focus, stability_score
from medfocus.settings import Selection

Policy = Literal["best", "union"]


def one_by_one(
    logits: np.ndarray, iou: np.ndarray, selection: Selection
) -> tuple[np.ndarray, float]:
    """The focus of one image by the definition, from (P, K, h, w) and (P, K)."""
    passing = []
    for masks, predictions in zip(logits, iou, strict=True):
        for mask, predicted in zip(masks, predictions, strict=True):
            inner = (mask > selection.stability_offset).sum()
            outer = (mask > -selection.stability_offset).sum()
            # In torch a ratio of counts is float32, also in a product with float64.
            score = predicted * np.float32(inner / max(outer, 1))
            area = (mask > 0).mean()
            if selection.min_area <= area <= selection.max_area and score >= selection.min_score:
                passing.append((score, mask))
    if not passing:
        return np.full(logits.shape[-2:], -32.0), 0.0
    best, mask = max(passing, key=lambda entry: entry[0])
    if selection.policy == "best":
        return mask, best
    probability = np.max([s / best / (1 + np.exp(-m)) for s, m in passing], axis=0)
    if (probability > 0.5).mean() > selection.max_area:
        return np.full(logits.shape[-2:], -32.0), 0.0
    bounded = np.clip(probability, UNION_FLOOR, 1 - UNION_FLOOR)
    return np.log(bounded / (1 - bounded)), best


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), policy=st.sampled_from(get_args(Policy)))
def test_selection_follows_the_definition(seed: int, policy: Policy) -> None:
    random = np.random.default_rng(seed)
    # Masks of all sizes: some cover nearly everything, some nothing.
    level = random.uniform(-9, 9, (3, 2, 3, 1, 1))
    logits = level + random.normal(0, 3, (3, 2, 3, 12, 12))
    iou = random.uniform(0, 1, (3, 2, 3))
    selection = Selection(policy=policy, min_area=0.05, max_area=0.9, min_score=0.2)
    focus, score = select_focus(torch.tensor(logits), torch.tensor(iou), selection)
    for row in range(3):
        expected, expected_score = one_by_one(logits[row], iou[row], selection)
        assert score[row].item() == pytest.approx(expected_score, rel=1e-6)
        np.testing.assert_allclose(focus[row].numpy(), expected, atol=1e-5)


def test_masks_of_everything_and_of_nothing_do_not_pass() -> None:
    logits = torch.stack([torch.full((1, 1, 8, 8), 9.0), torch.full((1, 1, 8, 8), -9.0)])
    focus, score = select_focus(logits, torch.ones(2, 1, 1), Selection())
    assert score.tolist() == [0, 0]
    assert (focus == -32).all()


def test_a_union_of_one_candidate_does_not_change_it() -> None:
    logits = torch.full((1, 1, 1, 8, 8), -4.0)
    logits[..., 2:5, 2:6] = 3.0
    union, _ = select_focus(logits, torch.full((1, 1, 1), 0.5), Selection(policy="union"))
    torch.testing.assert_close(union, logits[:, 0, 0], atol=1e-4, rtol=0)


def test_a_union_joins_two_regions() -> None:
    logits = torch.full((1, 2, 1, 8, 8), -6.0)
    logits[0, 0, 0, :3, :3] = 6.0
    logits[0, 1, 0, 5:, 5:] = 6.0
    union, _ = select_focus(logits, torch.tensor([[[0.9], [0.8]]]), Selection(policy="union"))
    assert torch.equal(union[0] > 0, (logits[0] > 0).any(0)[0])


def test_stability_is_the_iou_of_both_thresholds() -> None:
    logits = torch.tensor([[2.0, 0.5, -0.5, -2.0]])[None]
    assert stability_score(logits, 1.0).item() == pytest.approx(1 / 3)
    assert stability_score(torch.full((1, 2, 2), -5.0), 1.0).item() == 0
