"""Deep visual prompts: a few learned tokens per layer (VPT, arXiv 2203.12119)."""

import math

import torch
from torch import nn

from medfocus.fewshot.adapt.training import Change, class_group
from medfocus.models.clip.adapter import PROMPTS
from medfocus.models.graphs import ClassifierGraph

COUNT = 8  # tokens per layer
LEARNING_RATE = 5e-3


def change_prompts(graph: ClassifierGraph, seed: int) -> Change:
    """Add prompts (L, n, W) to the image encoder; train them and the class embeddings.

    They are initialised uniformly at random, as in the reference implementation.
    """
    clip = graph.clip
    generator = torch.Generator().manual_seed(seed)
    size = clip.image_size // clip.grid
    bound = math.sqrt(6 / (3 * size * size + clip.width))  # Xavier's, of the patch projection
    random = torch.rand(clip.layers, COUNT, clip.width, generator=generator)
    prompts = nn.Parameter(((2 * random - 1) * bound).to(graph.strength.device))
    clip.prompts = prompts
    return Change(
        [{"params": [prompts], "lr": LEARNING_RATE}, class_group(graph)],
        lambda: graph.class_embeddings,
        lambda: {PROMPTS: prompts},
    )
