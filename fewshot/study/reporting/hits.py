"""What hangs on the segmentation: the gain of focus where SAM2's mask hit the lesion, or missed."""

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
from medfocus.fewshot.study.reporting.summary import answers, groups_of, rounded, without_focus
from medfocus.fewshot.study.run import Run
from medfocus.fewshot.study.worker import Worker

HIT = 0.5  # intersection over union from which on an object counts as found (PASCAL VOC)


@dataclass(frozen=True)
class HitGain:
    """One setting, its test images with a lesion parted by whether SAM2's mask hit it.

    Attributes:
        dataset, adaptation, amount, focus: the setting, with SAM2's masks.
        hits, misses: how many images of each kind.
        gain_hit, gain_missed: of accuracy over focus `none` on these images, paired by image and
            seed; None where there are none.
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
        """Plain lists and numbers, rounded to what they are worth."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def overlaps(examples: Examples) -> NDArray[np.float64]:
    """(N,) intersection over union of each image's mask and its lesion; NaN where it has none."""
    assert examples.lesions is not None
    found = iou(examples.focus_logits > 0, examples.lesions > 0.5).double().numpy()
    return np.where(examples.with_lesion.numpy(), found, np.nan)


def study_overlaps(worker: Worker, grid: Grid) -> dict[str, NDArray[np.float64]]:
    """Those of the test images by data set, where lesions are known."""
    found = {}
    for name, dataset in worker.plan.datasets.items():
        examples = worker.examples(name, "found")
        if examples.lesions is not None:
            test = make_split(dataset, grid.amounts[0], 0).test  # the same in every split
            found[name] = overlaps(examples.take(examples.rows_of(test)))
    return found


def hit_gains(runs: Sequence[Run], found: Mapping[str, NDArray[np.float64]]) -> list[HitGain]:
    """Of every steered setting with SAM2's masks, at no labelled image and the smallest amount.

    Args:
        runs: of a study, amounts ascending.
        found: (N,) overlaps of the images that the runs of a data set answered, by its name.
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
        right, others = answers(group), answers(plain)
        kinds = found[dataset] >= HIT, found[dataset] < HIT  # neither without a lesion
        parts = [
            bootstrap_difference(right[:, kind], others[:, kind]) if kind.any() else None
            for kind in kinds
        ]
        hits, misses = (int(kind.sum()) for kind in kinds)
        gains.append(HitGain(dataset, adaptation, amount, focus, hits, misses, *parts))
    return gains
