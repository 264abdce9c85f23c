"""Full fine-tuning of both towers, as in the paper (arXiv 2501.03839)."""

from typing import Any

from torch import Tensor

from medfocus.fewshot.adapt.training import Change
from medfocus.models.graphs import ClassifierGraph

LEARNING_RATE = 1e-4


def change_all(graph: ClassifierGraph, model: Any, tokens: Tensor) -> Change:
    """Train all weights; the text tower computes the class embeddings from the prompts.

    Args:
        graph: the classifier, which shares its image encoder with the model.
        model: open_clip's CLIP, both towers.
        tokens: (C, T) the tokenized class prompts.
    """
    return Change(
        [{"params": [*model.parameters()], "lr": LEARNING_RATE}],
        lambda: model.encode_text(tokens),
        lambda: dict(graph.clip.named_parameters()),
    )
