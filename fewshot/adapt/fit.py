"""Labelled images to a head, by any of the adaptations."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import InputError
from medfocus.fewshot.adapt.folds import Refit
from medfocus.fewshot.adapt.full import change_all
from medfocus.fewshot.adapt.lora import change_low_rank
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

Adaptation = Literal["zero-shot", "probe", "tip", "vpt", "lora", "full"]

STEPS = 32  # of the optimiser, where there is one: 512 images


@dataclass(frozen=True)
class Task:
    """What is to be told apart, and how it is looked at.

    Attributes:
        classes: C class names.
        class_prompts: a sentence each.
        focus: how masks steer.
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
    """A head for a task from labelled images; what else is chosen is chosen on them as well.

    The same arguments give the same bits on one machine.

    Args:
        adaptation: which.
        task: what it is for.
        examples: the labelled images; `zero-shot` looks at none.
        backbones: the frozen models.
        seed: of all that is random in the training.
        steps: of the optimiser in `vpt`, `lora` and `full`.
        frozen: embeds the examples with frozen models, where that is known.

    Raises:
        InputError: an unknown adaptation, or a class without an image.
    """
    if adaptation not in get_args(Adaptation):
        known = ", ".join(get_args(Adaptation))
        raise InputError(f"adaptation {adaptation!r}", "not known", f"use one of {known}")
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
    # On frozen features whatever was trained: a trained encoder has seen every image, is sure of
    # all of them, and would make the head far too sure of others.
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
    """A head trained on, with all that goes into the image encoder."""
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
        adapter={name: part.detach().cpu() for name, part in change.adapter().items()},
    )


def _calibrated(head: Head, logits: Tensor | None, labels: Tensor) -> Head:
    """The head with its logits over the temperature at which they say how often it is right."""
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
            raise InputError(f"class {name!r}", "has no image to learn from", "give some of it")
