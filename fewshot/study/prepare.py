"""What a study does before it runs: each image read, segmented and looked at once."""

from rich.progress import Progress

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.examples import load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.study.worker import Plan


def segment_all(plan: Plan, backbones: Backbones, progress: Progress) -> None:
    """Fill the store of focus masks, so that no two processes segment the same image.

    Raises:
        ImageError: an image that cannot be read.
    """
    store = FocusStore(plan.store, backbones)
    for dataset in plan.datasets.values():
        load_examples(dataset.items, backbones, store, progress)
