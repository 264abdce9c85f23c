"""The evidence of a report: measured explanations and a gallery of predictions."""

import torch
from rich.progress import Progress

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.splitting.splits import make_split
from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.grid import NO_IMAGES, Grid
from medfocus.fewshot.study.reporting.explain import Explanation, explain
from medfocus.fewshot.study.reporting.gallery import GalleryItem, gallery
from medfocus.fewshot.study.run import Setting
from medfocus.fewshot.study.worker import Worker
from medfocus.models.head import Head

EXPLAINED = 50  # test images per head
PICTURES = 4  # correct predictions per head, and as many wrong ones

Evidence = tuple[list[Explanation], list[GalleryItem]]


def evidence_of(dataset: str, head: Head, examples: Examples, backbones: Backbones) -> Evidence:
    """The evidence of one head on its test images; explanations only of images with known lesions.

    A head with visual prompts is not explained, since attention also goes to the prompts.
    """
    pictures = gallery(dataset, head, examples, backbones, PICTURES)
    known = examples.with_lesion.nonzero()[:, 0]
    if not len(known) or head.adaptation == "vpt":
        return [], pictures
    # Spread evenly, since images may be sorted by class.
    rows = known[torch.linspace(0, len(known) - 1, min(EXPLAINED, len(known))).long()]
    return [explain(dataset, head, examples.take(rows), backbones)], pictures


def study_evidence(worker: Worker, grid: Grid, progress: Progress) -> Evidence:
    """The evidence of the last adaptation, largest amount and first seed in every focus mode."""
    adaptation = grid.adaptations[-1]
    amount = grid.amounts[-1]
    wanted = [(name, focus) for name in worker.config.datasets for focus in grid.focus]
    explanations: list[Explanation] = []
    pictures: list[GalleryItem] = []
    for name, focus in progress.track(wanted, description="explaining"):
        split = make_split(worker.config.datasets[name], amount, 0)
        shown = NO_IMAGES if adaptation == "zero-shot" else str(amount)
        head = worker.fit(Setting(name, focus, "found", adaptation, shown, 0), split)
        examples = worker.examples(name, "found")
        tested = examples.take(examples.rows_of(split.test))
        found, answered = evidence_of(name, head, tested, worker.backbones)
        explanations += found
        pictures += answered
    return explanations, pictures
