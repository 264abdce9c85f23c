"""The gain of focus on images where SAM2's mask hit the lesion, and where it missed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.fewshot.data.splitting.splits import make_split
from medfocus.fewshot.evaluation.explanation import iou
from medfocus.fewshot.evaluation.intervals import Interval, bootstrap_difference
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.grid import NO_IMAGES, Grid
from medfocus.fewshot.study.reporting.summary import (
    correct_answers,
    groups_of,
    rounded,
    without_focus,
)
from medfocus.fewshot.study.run import Run
from medfocus.fewshot.study.worker import Worker

HIT = 0.5  # intersection over union at which an object counts as found (PASCAL VOC)


@dataclass(frozen=True)
class HitGain:
    """A setting's gain on the test images whose lesion SAM2's mask hit, and on the others.

    Attributes:
        dataset, adaptation, amount, focus: the setting, with SAM2's masks.
        hits, misses: number of images of each kind.
        gain_hit, gain_missed: gain in accuracy over focus `none` on these images, paired by image
            and seed; None if there are no such images.
    """

    dataset: str
    adaptation: str
    amount: str
    focus: str
    hits: int
    misses: int
    gain_hit: Interval | None
    gain_missed: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to five decimals."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def overlaps(examples: Examples) -> NDArray[np.float64]:
    """(N,) intersection over union of each image's mask and lesion; NaN without a lesion."""
    assert examples.lesions is not None
    found = iou(examples.focus_logits > 0, examples.lesions > 0.5).double().numpy()
    return np.where(examples.with_lesion.numpy(), found, np.nan)


def study_overlaps(worker: Worker, grid: Grid) -> dict[str, NDArray[np.float64]]:
    """The overlaps of the test images of each data set with lesion masks."""
    found = {}
    for name, dataset in worker.config.datasets.items():
        examples = worker.examples(name, "found")
        if examples.lesions is not None:
            test = make_split(dataset, grid.amounts[0], 0).test  # the same in every split
            found[name] = overlaps(examples.take(examples.rows_of(test)))
    return found


def hit_gains(runs: Sequence[Run], found: Mapping[str, NDArray[np.float64]]) -> list[HitGain]:
    """The gains of all settings with SAM2's masks, for zero-shot and at the smallest amount.

    Args:
        runs: of a study, amounts ascending.
        found: (N,) overlaps of the test images of each data set.
    """
    groups = groups_of(runs)
    least = next((run.setting.amount for run in runs if run.setting.amount != NO_IMAGES), NO_IMAGES)
    gains = []
    for key, group in groups.items():
        dataset, adaptation, amount, focus, masks = key
        plain = without_focus(groups, key)
        if plain is None or dataset not in found or masks != "found":
            continue
        if amount not in (least, NO_IMAGES):
            continue
        correct, others = correct_answers(group), correct_answers(plain)
        kinds = found[dataset] >= HIT, found[dataset] < HIT  # both False without a lesion
        intervals = [
            bootstrap_difference(correct[:, kind], others[:, kind]) if kind.any() else None
            for kind in kinds
        ]
        hits, misses = (int(kind.sum()) for kind in kinds)
        gains.append(HitGain(dataset, adaptation, amount, focus, hits, misses, *intervals))
    return gains
