"""Gains where the mask hit and where it missed, compared with those by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medfocus.fewshot.evaluation.intervals import bootstrap_difference
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.reporting.hits import HIT, hit_gains, overlaps
from tests.fewshot.study.fake_runs import IMAGES, fake_run, fake_study


def test_the_gain_is_split_by_image() -> None:
    runs = fake_study()
    hit = np.arange(IMAGES) % 4 != 0
    missed = ~hit
    missed[0] = False  # it has no lesion
    found = np.where(hit, HIT, np.where(missed, 0.49, np.nan))
    (gain,) = hit_gains(runs, {"brain": found})
    assert (gain.dataset, gain.adaptation, gain.amount, gain.focus) == (
        "brain",
        "probe",
        "5%",
        "soft",
    )
    assert (gain.hits, gain.misses) == (30, 9)
    chosen = [r for r in runs if (r.setting.amount, r.setting.masks) == ("5%", "found")]
    soft = np.stack([r.correct for r in chosen if r.setting.focus == "soft"])
    none = np.stack([r.correct for r in chosen if r.setting.focus == "none"])
    assert gain.gain_hit == bootstrap_difference(soft[:, hit], none[:, hit])
    assert gain.gain_missed is not None
    assert gain.gain_missed.mean == pytest.approx(
        (soft[:, missed].astype(float) - none[:, missed]).mean()
    )


def test_gains_that_are_undefined_are_left_out() -> None:
    runs = fake_study()
    every = np.ones(IMAGES)
    (gain,) = hit_gains(runs, {"brain": every})
    assert (gain.misses, gain.gain_missed) == (0, None)
    assert gain.to_json()["gain_missed"] is None
    assert hit_gains(runs, {}) == []  # unknown lesions
    assert hit_gains([r for r in runs if r.setting.focus == "soft"], {"brain": every}) == []


def test_zero_shot_is_included_whatever_the_amounts() -> None:
    start = replace(fake_study()[0].setting, adaptation="zero-shot", amount="none")
    zero = [fake_run(start, 0.5), fake_run(replace(start, focus="hard"), 0.6)]
    gains = hit_gains(zero + fake_study(), {"brain": np.linspace(0, 1, IMAGES)})
    assert [(each.adaptation, each.focus) for each in gains] == [
        ("zero-shot", "hard"),
        ("probe", "soft"),
    ]


def test_overlaps() -> None:
    lesion = torch.zeros(4, 4, 4)
    lesion[:3, :2, :2] = 1  # four cells
    mask = torch.full((4, 4, 4), -5.0)
    mask[0, :2, :4] = 5  # all of it and as much again
    mask[1, :2, :4] = mask[1, 2, 0] = 5  # one cell more
    examples = Examples(
        np.zeros((4, 1, 1, 3), np.uint8),
        ((4, 4, 1.0),) * 4,
        mask,
        torch.ones(4),
        torch.zeros(4, dtype=torch.int64),
        torch.arange(4),
        torch.arange(4),
        ("a", "b", "c", "d"),
        lesion,
    )
    np.testing.assert_allclose(overlaps(examples), [4 / 8, 4 / 9, 0, np.nan])
