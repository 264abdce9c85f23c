"""What hangs on the segmentation: the gain of focus where SAM2's mask hit the lesion, or missed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.fewshot.data.splits import make_split
from medfocus.fewshot.evaluation.explanation import iou
from medfocus.fewshot.evaluation.intervals import Interval, bootstrap_difference
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.grid import NO_IMAGES, Grid
from medfocus.fewshot.study.run import Run
from medfocus.fewshot.study.summary import answers, groups_of, rounded, without_focus
from medfocus.fewshot.study.worker import Worker

HIT = 0.5  # intersection over union from which on an object counts as found (PASCAL VOC)


@dataclass(frozen=True)
class HitGain:
    """One setting, its test images parted by whether SAM2's mask hit the lesion.

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


def mask_hits(examples: Examples) -> NDArray[np.bool_]:
    """(N,) whether each image's mask and its lesion overlap by `HIT` or more."""
    assert examples.lesions is not None
    hits: NDArray[np.bool_] = (
        iou(examples.focus_logits > 0, examples.lesions > 0.5) >= HIT
    ).numpy()
    return hits


def study_hits(worker: Worker, grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """The test images' hits by data set, of those whose lesions are known."""
    hits = {}
    for name, dataset in worker.plan.datasets.items():
        examples = worker.examples(name, "found")
        if examples.lesions is not None:
            test = make_split(dataset, grid.amounts[0], 0).test  # the same in every split
            hits[name] = mask_hits(examples.take(examples.rows_of(test)))
    return hits


def hit_gains(runs: Sequence[Run], hits: Mapping[str, NDArray[np.bool_]]) -> list[HitGain]:
    """Of every steered setting with SAM2's masks, at no labelled image and the smallest amount.

    Args:
        runs: of a study, amounts ascending.
        hits: (N,) of the images that the runs of a data set answered.
    """
    groups = groups_of(runs)
    least = next((run.setting.amount for run in runs if run.setting.amount != NO_IMAGES), NO_IMAGES)
    gains = []
    for key, group in groups.items():
        dataset, adaptation, amount, focus, masks = key
        plain = without_focus(groups, key)
        if plain is None or dataset not in hits or masks != "found":
            continue
        if amount not in (least, NO_IMAGES):
            continue
        right, others, hit = answers(group), answers(plain), hits[dataset]
        parts = [
            bootstrap_difference(right[:, part], others[:, part]) if part.any() else None
            for part in (hit, ~hit)
        ]
        counts = int(hit.sum()), int((~hit).sum())
        gains.append(HitGain(dataset, adaptation, amount, focus, *counts, *parts))
    return gains
