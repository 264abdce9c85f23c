"""Objective and training loop of the adaptations that train the image encoder."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.examples import Examples, classifier_inputs
from medfocus.models.graphs import ClassifierGraph

CONTRASTIVE = 0.5  # the paper's λ; it does not give the value
BATCH = 16
CLASS_RATE = 1e-3  # learning rate of class embeddings
STRENGTH_RATE = 0.05  # learning rate of the focus strengths


class Change(NamedTuple):
    """What an adaptation trains in a classifier's graph.

    Attributes:
        groups: the optimiser's parameter groups.
        class_embeddings: returns the current class embeddings (C, E), not normalised.
        adapter: returns the current adapter, in the form of `models.clip.adapter`.
    """

    groups: list[dict[str, Any]]
    class_embeddings: Callable[[], Tensor]
    adapter: Callable[[], Mapping[str, Tensor]]


def class_group(graph: ClassifierGraph) -> dict[str, Any]:
    """The parameter group of class embeddings trained directly."""
    return {"params": [graph.class_embeddings], "lr": CLASS_RATE, "weight_decay": 0.0}


def objective(logits: Tensor, labels: Tensor) -> Tensor:
    """λ·Lc + (1 - λ)·Le of the paper (arXiv 2501.03839).

    Le is the cross-entropy over the classes. Lc is CLIP's symmetric contrastive loss between the
    images of a batch and the prompts of the classes in it; all images of a class are positives of
    its prompt (UniCL, arXiv 2204.03610).

    Args:
        logits: (B, C); labels: (B,) int64.
    """
    present = torch.unique(labels)
    to_text = F.cross_entropy(logits[:, present], torch.searchsorted(present, labels))
    of_class = (labels[None] == present[:, None]).to(logits.dtype)  # (P, B)
    targets = of_class / of_class.sum(1, keepdim=True)
    to_image = F.cross_entropy(logits[:, present].T, targets)
    contrastive = (to_text + to_image) / 2
    return CONTRASTIVE * contrastive + (1 - CONTRASTIVE) * F.cross_entropy(logits, labels)


def batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices (B,): all images in random order, then all again."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:BATCH]
        order = order[BATCH:]


def train(
    graph: ClassifierGraph,
    change: Change,
    examples: Examples,
    backbones: Backbones,
    seed: int,
    steps: int,
) -> None:
    """Train in place with AdamW and a cosine schedule; in `soft`, also the focus strengths.

    Args:
        graph: the classifier.
        change: what is trained; everything else is frozen.
        examples: the labelled images with their masks.
        backbones: gives the preprocessing and the device.
        seed: of the order of the images.
        steps: optimiser steps of 16 images each.
    """
    groups = [*change.groups]
    if graph.focus.mode == "soft":
        groups.append({"params": [graph.strength], "lr": STRENGTH_RATE, "weight_decay": 0.0})
    graph.requires_grad_(False)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = batches(len(examples), torch.Generator().manual_seed(seed))
    for rows in islice(order, steps):
        inputs = classifier_inputs(examples, rows, backbones, graph.focus)
        unit = F.normalize(graph(*inputs).embedding, dim=-1)
        logits = graph.logit_scale * unit @ F.normalize(change.class_embeddings(), dim=-1).T
        loss = objective(logits, examples.labels[rows].to(logits.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            graph.strength.clamp_(min=0)  # a negative strength would steer away from the region
