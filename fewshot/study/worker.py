"""One process's part of a study: a setting to a run, with all that can be shared kept."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medfocus.fewshot.adapt.fit import Adaptation, Task, fit_head
from medfocus.fewshot.backbones import Backbones, WeightSources, load_backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.images import leave_out_bad
from medfocus.fewshot.data.splitting.leaks import file_name
from medfocus.fewshot.data.splitting.splits import Split
from medfocus.fewshot.examples import Examples, embed, load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.study.evaluate import answers
from medfocus.fewshot.study.masks import with_masks
from medfocus.fewshot.study.run import Masks, Run, Setting
from medfocus.fewshot.study.unseen import check_unseen
from medfocus.models.head import Head
from medfocus.settings import Device, Focus, FocusMode

# What the frozen embeddings of a data set's test images, or of all its others, depend on.
_Frozen = tuple[str, FocusMode, Masks, tuple[float, ...], bool]


@dataclass(frozen=True)
class StudyConfig:
    """What every process of a study needs.

    Attributes:
        preset, weights: of the models, as `load_backbones` takes them.
        device: where they run.
        store: the folder of focus masks.
        datasets: by name.
        steps: of the optimiser, where there is one.
    """

    preset: str
    weights: WeightSources
    device: Device
    store: Path
    datasets: Mapping[str, Dataset]
    steps: int


class Worker:
    """Runs settings one after the other. Images, embeddings and models are kept between them."""

    def __init__(self, plan: StudyConfig) -> None:
        self.plan = plan
        self.backbones: Backbones = load_backbones(plan.preset, plan.weights, plan.device)
        self._store = FocusStore(plan.store, self.backbones)
        self._examples: dict[str, Examples] = {}
        self._masked: dict[tuple[str, Masks], Examples] = {}
        self._frozen: dict[_Frozen, tuple[Tensor, Tensor]] = {}

    def leave_out_bad(self, report: Console) -> int:
        """Take what would be refused out of the plan's data sets.

        Returns:
            how many files.
        """
        kept = {
            name: leave_out_bad(dataset, self.backbones.check, report)
            for name, dataset in self.plan.datasets.items()
        }
        before = sum(len(dataset.items) for dataset in self.plan.datasets.values())
        self.plan = replace(self.plan, datasets=kept)
        return before - sum(len(dataset.items) for dataset in kept.values())

    def read_all(self, progress: Progress) -> None:
        """Read every image, and segment those that the store does not know.

        Done before other processes start, so that no two of them segment the same image.

        Raises:
            ImageError: an image that cannot be read.
        """
        for name in self.plan.datasets:
            self._read(name, progress)

    def examples(self, dataset: str, masks: Masks) -> Examples:
        """All images of a data set with these masks."""
        if dataset not in self._examples:
            with Progress(disable=True) as progress:
                self._read(dataset, progress)
        key = dataset, masks
        if key not in self._masked:
            self._masked[key] = with_masks(self._examples[dataset], masks)
        return self._masked[key]

    def _read(self, dataset: str, progress: Progress) -> None:
        items = self.plan.datasets[dataset].items
        self._examples[dataset] = load_examples(items, self.backbones, self._store, progress)

    def task(self, setting: Setting) -> Task:
        """What a setting tells apart, and how."""
        dataset = self.plan.datasets[setting.dataset]
        return Task(dataset.classes, dataset.prompts, Focus(mode=setting.focus))

    def fit(self, setting: Setting, split: Split) -> Head:
        """The head of a setting, from the split's training images."""
        examples = self.examples(setting.dataset, setting.masks)
        rows = examples.rows_of(split.train)
        return fit_head(
            cast(Adaptation, setting.adaptation),
            self.task(setting),
            examples.take(rows),
            self.backbones,
            setting.seed,
            self.plan.steps,
            lambda strength: self._features(setting, strength, split, tested=False)[0][rows],
        )

    def run(self, setting: Setting, split: Split) -> Run:
        """Adapt, then answer all test images."""
        examples = self.examples(setting.dataset, setting.masks)
        start = time.perf_counter()
        head = self.fit(setting, split)
        seconds = time.perf_counter() - start
        rows = examples.rows_of(split.test)
        dataset = self.plan.datasets[setting.dataset]
        names = [file_name(dataset, index) for index in range(len(dataset.items))]
        check_unseen(examples.take(rows), set(head.trained_on), names)
        if head.adapter:
            graph = self.backbones.classifier(head, Focus(mode=setting.focus))
            features, focused = embed(examples.take(rows), self.backbones, graph)
        else:
            found = self._features(setting, head.strength, split, tested=True)
            features, focused = (part[rows] for part in found)
        return answers(setting, head, features, focused, examples.labels[rows], seconds)

    def _features(
        self, setting: Setting, strength: Tensor, split: Split, tested: bool
    ) -> tuple[Tensor, Tensor]:
        """What the frozen models make of the data set's images: (N, E), and focused (N,).

        Of its test images, or of all others, whoever of them is asked for: so an image's batch,
        and with it the last bits, are the same in every run. The other part's rows are zeros.
        """
        key = setting.dataset, setting.focus, setting.masks, tuple(strength.tolist()), tested
        if key not in self._frozen:
            task = self.task(setting)
            head = self.backbones.zero_shot_head(task.classes, task.class_prompts, task.focus)
            head = replace(head, strength=strength)
            graph = self.backbones.classifier(head, task.focus)
            examples = self.examples(setting.dataset, setting.masks)
            rows = examples.rows_of(split.test)
            if not tested:
                others = torch.ones(len(examples), dtype=torch.bool)
                others[rows] = False
                rows = others.nonzero()[:, 0]
            features, focused = embed(examples.take(rows), self.backbones, graph)
            whole = features.new_zeros(len(examples), features.shape[1])
            steered = focused.new_zeros(len(examples))
            whole[rows], steered[rows] = features, focused
            self._frozen[key] = whole, steered
        return self._frozen[key]


def one_thread() -> None:
    """Each process computes alone, so that its bits do not depend on how many there are."""
    torch.set_num_threads(1)
