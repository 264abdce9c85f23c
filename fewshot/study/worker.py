"""The worker of one study process: runs settings, caching what they share."""

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
from medfocus.fewshot.study.evaluate import apply_head
from medfocus.fewshot.study.masks import with_masks
from medfocus.fewshot.study.run import Masks, Run, Setting
from medfocus.fewshot.study.unseen import check_unseen
from medfocus.models.head import Head
from medfocus.settings import Device, Focus, FocusMode

# Data set, focus, masks, strength, and whether of its test images or of all others.
_Frozen = tuple[str, FocusMode, Masks, tuple[float, ...], bool]


@dataclass(frozen=True)
class StudyConfig:
    """The configuration shared by all processes of a study.

    Attributes:
        preset, weights: of the models, as for `load_backbones`.
        device: of the models.
        store: the folder of focus masks.
        datasets: by name.
        steps: optimiser steps of `vpt`, `lora` and `full`.
    """

    preset: str
    weights: WeightSources
    device: Device
    store: Path
    datasets: Mapping[str, Dataset]
    steps: int


class Worker:
    """Runs settings one at a time; images, embeddings and models are kept in memory."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.backbones: Backbones = load_backbones(config.preset, config.weights, config.device)
        self._store = FocusStore(config.store, self.backbones)
        self._examples: dict[str, Examples] = {}
        self._masked: dict[tuple[str, Masks], Examples] = {}
        self._frozen: dict[_Frozen, tuple[Tensor, Tensor]] = {}

    def leave_out_bad(self, report: Console) -> int:
        """Remove unusable files from the data sets of the configuration.

        Returns:
            the number of files removed.
        """
        kept = {
            name: leave_out_bad(dataset, self.backbones.check, report)
            for name, dataset in self.config.datasets.items()
        }
        before = sum(len(dataset.items) for dataset in self.config.datasets.values())
        self.config = replace(self.config, datasets=kept)
        return before - sum(len(dataset.items) for dataset in kept.values())

    def read_all(self, progress: Progress) -> None:
        """Read all images, and segment those that are not in the store.

        Call it before other processes start, so that no image is segmented twice.

        Raises:
            ImageError: an image cannot be read.
        """
        for name in self.config.datasets:
            self._read(name, progress)

    def examples(self, dataset: str, masks: Masks) -> Examples:
        """All images of a data set with the given masks."""
        if dataset not in self._examples:
            with Progress(disable=True) as progress:
                self._read(dataset, progress)
        key = dataset, masks
        if key not in self._masked:
            self._masked[key] = with_masks(self._examples[dataset], masks)
        return self._masked[key]

    def _read(self, dataset: str, progress: Progress) -> None:
        items = self.config.datasets[dataset].items
        self._examples[dataset] = load_examples(items, self.backbones, self._store, progress)

    def task(self, setting: Setting) -> Task:
        """The task of a setting."""
        dataset = self.config.datasets[setting.dataset]
        return Task(dataset.classes, dataset.prompts, Focus(mode=setting.focus))

    def fit(self, setting: Setting, split: Split) -> Head:
        """Fit a setting's head to the split's training images."""
        examples = self.examples(setting.dataset, setting.masks)
        rows = examples.rows_of(split.train)
        return fit_head(
            cast(Adaptation, setting.adaptation),
            self.task(setting),
            examples.take(rows),
            self.backbones,
            setting.seed,
            self.config.steps,
            lambda strength: self._features(setting, strength, split, tested=False)[0][rows],
        )

    def run(self, setting: Setting, split: Split) -> Run:
        """Fit a setting's head, then classify the split's test images."""
        examples = self.examples(setting.dataset, setting.masks)
        start = time.perf_counter()
        head = self.fit(setting, split)
        seconds = time.perf_counter() - start
        rows = examples.rows_of(split.test)
        dataset = self.config.datasets[setting.dataset]
        names = [file_name(dataset, index) for index in range(len(dataset.items))]
        check_unseen(examples.take(rows), set(head.trained_on), names)
        if head.adapter:
            graph = self.backbones.classifier(head, Focus(mode=setting.focus))
            features, focused = embed(examples.take(rows), self.backbones, graph)
        else:
            found = self._features(setting, head.strength, split, tested=True)
            features, focused = (tensor[rows] for tensor in found)
        return apply_head(setting, head, features, focused, examples.labels[rows], seconds)

    def _features(
        self, setting: Setting, strength: Tensor, split: Split, tested: bool
    ) -> tuple[Tensor, Tensor]:
        """The frozen models' embeddings (N, E) of a data set's images, and focused (N,).

        Computed for all test images or for all others, so that an image's batch, and with it the
        last bits, are the same in every run. The rows of the other part are zeros.
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
            all_features = features.new_zeros(len(examples), features.shape[1])
            all_focused = focused.new_zeros(len(examples))
            all_features[rows], all_focused[rows] = features, focused
            self._frozen[key] = all_features, all_focused
        return self._frozen[key]


def one_thread() -> None:
    """Use one thread, so that the bits do not depend on the number of processes."""
    torch.set_num_threads(1)
