"""Evaluates a head on images that it was not trained on."""

import numpy as np
from rich.progress import Progress
from torch import Tensor

from medfocus.errors import InputError
from medfocus.fewshot.adapt.folds import logits_of
from medfocus.fewshot.backbones import Backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.splits import Split
from medfocus.fewshot.examples import Examples, embed, load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.study.run import Run, Setting
from medfocus.fewshot.study.unseen import check_unseen
from medfocus.models.head import Head
from medfocus.settings import Focus


def evaluate_head(
    head: Head,
    dataset: Dataset,
    split: Split,
    backbones: Backbones,
    store: FocusStore,
    progress: Progress,
) -> tuple[Run, Examples]:
    """Classify a split's test images exactly as an engine with this head would.

    Returns:
        the run, and the test images.

    Raises:
        InputError: the classes or models differ from the head's, or it was trained on a test image.
        ImageError: an image cannot be read.
    """
    if head.classes != dataset.classes:
        raise InputError(
            f"head for {', '.join(head.classes)}",
            f"does not fit {dataset.name} with the classes {', '.join(dataset.classes)}",
            "evaluate it on data with its own classes",
            code="head.class_mismatch",
        )
    items = [dataset.items[index] for index in split.test]
    examples = load_examples(items, backbones, store, progress)
    names = [file.file for file in split.test_files]
    check_unseen(examples, set(head.trained_on), names)
    graph = backbones.classifier(head, Focus(mode=head.focus))
    features, focused = embed(examples, backbones, graph)
    setting = Setting(dataset.name, head.focus, "found", head.adaptation, split.amount, split.seed)
    return apply_head(setting, head, features, focused, examples.labels, 0.0), examples


def apply_head(
    setting: Setting,
    head: Head,
    features: Tensor,
    focused: Tensor,
    labels: Tensor,
    seconds: float,
) -> Run:
    """Classify unit embeddings (N, E) with a head, in float64 from the logits on."""
    calibrated = logits_of(head, features).double()
    probabilities = (head.temperature * calibrated).softmax(1).numpy()
    return Run(
        setting,
        head.classes,
        labels.numpy().astype(np.int64),
        probabilities,
        focused.numpy(),
        head.temperature,
        tuple(head.strength.tolist()),
        len(head.trained_on),
        seconds,
    )
