"""Runs with made-up predictions."""

from dataclasses import replace

import numpy as np

from medfocus.fewshot.study.run import Run, Setting

IMAGES, CLASSES = 40, ("a", "<b>&", "c")


def fake_run(setting: Setting, accuracy: float) -> Run:
    """About this share of the predictions is correct; hard images depend on the seed only."""
    rng = np.random.default_rng(setting.seed)
    labels = np.arange(IMAGES) % 3
    correct = rng.random(IMAGES) < accuracy
    answer = np.where(correct, labels, (labels + 1) % 3)
    probabilities = np.full((IMAGES, 3), 0.1)
    probabilities[np.arange(IMAGES), answer] = 0.8
    return Run(
        setting,
        CLASSES,
        labels,
        probabilities,
        rng.random(IMAGES) < 0.9,
        1.5,
        (0.2,) * 6,
        12,
        1.0,
    )


def fake_study() -> list[Run]:
    """Two amounts, three seeds, with and without focus, and true masks at the first amount."""
    start = Setting("brain", "none", "found", "probe", "5%", 0)
    runs = []
    for amount, plain, soft in (("5%", 0.5, 0.7), ("100%", 0.8, 0.85)):
        for seed in range(3):
            setting = replace(start, amount=amount, seed=seed)
            runs.append(fake_run(setting, plain))
            runs.append(fake_run(replace(setting, focus="soft"), soft))
            if amount == "5%":
                runs.append(fake_run(replace(setting, focus="soft", masks="true"), 0.9))
    return runs
