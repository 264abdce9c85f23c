"""Fit a head to labelled images with any of the adaptations."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import InputError
from medfocus.fewshot.adapt.folds import Refit
from medfocus.fewshot.adapt.full import change_all
from medfocus.fewshot.adapt.lora import change_low_rank
from medfocus.fewshot.adapt.names import STEPS as STEPS
from medfocus.fewshot.adapt.names import Adaptation as Adaptation
from medfocus.fewshot.adapt.probe import fit_probe
from medfocus.fewshot.adapt.strength import Frozen, choose_strength
from medfocus.fewshot.adapt.tip import fit_tip
from medfocus.fewshot.adapt.training import Change, train
from medfocus.fewshot.adapt.vpt import change_prompts
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.evaluation.temperature import fit_temperature
from medfocus.fewshot.examples import Examples, embed
from medfocus.models.graphs import Cache, ClassifierGraph
from medfocus.models.head import Head, graph_tensors
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from medfocus.settings import Focus


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        classes: C class names.
        class_prompts: C class prompts, one sentence per class.
        focus: how masks steer CLIP.
    """

    classes: tuple[str, ...]
    class_prompts: tuple[str, ...]
    focus: Focus


def fit_head(
    adaptation: Adaptation,
    task: Task,
    examples: Examples,
    backbones: Backbones,
    seed: int = 0,
    steps: int = STEPS,
    frozen: Frozen | None = None,
) -> Head:
    """Fit a head; its focus strength and temperature are chosen on the training images too.

    The same arguments give the same bits on one machine.

    Args:
        adaptation: the method.
        task: classes, prompts and focus.
        examples: the labelled images; `zero-shot` uses none.
        backbones: the frozen models.
        seed: of all randomness in the training.
        steps: optimiser steps of `vpt`, `lora` and `full`.
        frozen: embeds the examples with the frozen models, if the caller caches that.

    Raises:
        InputError: an unknown adaptation, or a class without an image.
    """
    if adaptation not in get_args(Adaptation):
        known = ", ".join(get_args(Adaptation))
        raise InputError(
            f"adaptation {adaptation!r}",
            "is unknown",
            f"use one of {known}",
            code="input.unknown_adaptation",
        )
    start = backbones.zero_shot_head(task.classes, task.class_prompts, task.focus)
    if adaptation == "zero-shot":
        return start
    _check_classes(task, examples)
    start = replace(start, adaptation=adaptation, trained_on=examples.content)
    text, scale, labels = start.class_embeddings, start.logit_scale, examples.labels

    def embedded(strength: Tensor) -> Tensor:
        head = replace(start, strength=strength)
        return embed(examples, backbones, backbones.classifier(head, task.focus))[0]

    def probe(features: Tensor, labels: Tensor) -> Head:
        return replace(start, class_embeddings=fit_probe(features, labels, text, scale))

    def tip(features: Tensor, labels: Tensor) -> Head:
        return replace(start, cache=fit_tip(features, labels, text, scale))

    refit: Refit = tip if adaptation == "tip" else probe
    choice = choose_strength(
        task.focus.mode, start.strength, frozen or embedded, refit, labels, examples.groups, seed
    )
    head = start if adaptation == "full" else refit(choice.features, labels)
    head = replace(head, strength=choice.strength)
    if adaptation not in ("probe", "tip"):
        head = _tune(adaptation, head, task, examples, backbones, seed, steps)
    # Always on frozen features: a trained encoder has seen every image and is confident on all of
    # them, which would make the head far too confident on others.
    return _calibrated(head, choice.held_out, labels)


def _tune(
    adaptation: str,
    head: Head,
    task: Task,
    examples: Examples,
    backbones: Backbones,
    seed: int,
    steps: int,
) -> Head:
    """Train a head further, together with the image encoder's adapter."""
    model, clip = deepcopy((backbones.loaded.model, backbones.clip))
    tensors = {name: tensor.clone() for name, tensor in head.tensors().items()}
    graph = ClassifierGraph(
        clip, task.focus, mean=CLIP_MEAN, std=CLIP_STD, **graph_tensors(tensors)
    )
    graph = graph.eval().to(backbones.device)
    change: Change
    if adaptation == "vpt":
        change = change_prompts(graph, seed)
    elif adaptation == "lora":
        change = change_low_rank(graph, seed)
    else:
        tokens = backbones.loaded.tokenize(task.class_prompts).to(backbones.device)
        change = change_all(graph, model.to(backbones.device), tokens)
    train(graph, change, examples, backbones, seed, steps)
    with torch.no_grad():
        class_embeddings = F.normalize(change.class_embeddings(), dim=-1).cpu()
    return replace(
        head,
        class_embeddings=class_embeddings,
        strength=graph.strength.detach().cpu(),
        adapter={name: tensor.detach().cpu() for name, tensor in change.adapter().items()},
    )


def _calibrated(head: Head, logits: Tensor | None, labels: Tensor) -> Head:
    """The head with its logits divided by the temperature fitted on held-out logits."""
    if logits is None:
        return head
    temperature = fit_temperature(logits, labels)
    cache = head.cache
    if cache is not None:
        cache = Cache(cache.keys, cache.values / temperature, cache.sharpness)
    return replace(
        head,
        logit_scale=head.logit_scale / temperature,
        cache=cache,
        temperature=temperature,
    )


def _check_classes(task: Task, examples: Examples) -> None:
    counts = examples.labels.bincount(minlength=len(task.classes))
    for name, count in zip(task.classes, counts.tolist(), strict=True):
        if count == 0:
            raise InputError(
                f"class {name!r}",
                "has no image to learn from",
                "add images of this class",
                code="dataset.missing_class",
            )
