"""Fine-tuning of both towers, as the paper does it."""

from typing import Any

from torch import Tensor

from medfocus.fewshot.adapt.training import Change
from medfocus.models.graphs import ClassifierGraph

LEARNING_RATE = 1e-4


def change_all(graph: ClassifierGraph, model: Any, tokens: Tensor) -> Change:
    """Train every weight; the class embeddings are what the text tower makes of the prompts.

    Args:
        graph: the classifier; its image encoder is the model's.
        model: open_clip's, both towers.
        tokens: (C, length) the tokenized class prompts.
    """
    return Change(
        [{"params": [*model.parameters()], "lr": LEARNING_RATE}],
        lambda: model.encode_text(tokens),
        lambda: dict(graph.clip.named_parameters()),
    )
