"""LoRA: low-rank changes of the image encoder's attention projections (arXiv 2106.09685)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medfocus.fewshot.adapt.training import Change, class_group
from medfocus.models.graphs import ClassifierGraph

RANK = 4
LEARNING_RATE = 2e-3
# q, k and v in one matrix, and the output: open_clip's names and timm's.
TARGETS = (
    "attn.in_proj_weight",
    "attn.out_proj.weight",
    "attn.qkv.weight",
    "attn.proj.weight",
)


class LowRank(nn.Module):
    """W + up · down; up starts at 0, so the weight starts unchanged."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)  # nn.Linear's initialisation, as of LoRA's A
        down = (2 * torch.rand(RANK, columns, generator=generator) - 1) * bound
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(weight.new_zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)."""
        return weight + self.up @ self.down


def change_low_rank(graph: ClassifierGraph, seed: int) -> Change:
    """Add a `LowRank` to each attention projection; train them and the class embeddings.

    The packed projection is read as one tensor (only its q rows in the last layer), so the tensor
    is parametrised instead of replacing a module.
    """
    generator = torch.Generator().manual_seed(seed)
    changes: dict[str, LowRank] = {}
    for name, weight in [*graph.clip.named_parameters()]:
        if name.endswith(TARGETS):
            owner, _, attribute = name.rpartition(".")
            changes[name] = LowRank(weight, generator)
            parametrize.register_parametrization(
                graph.clip.get_submodule(owner), attribute, changes[name]
            )
    factors = [factor for change in changes.values() for factor in change.parameters()]
    return Change(
        [{"params": factors, "lr": LEARNING_RATE}, class_group(graph)],
        lambda: graph.class_embeddings,
        lambda: {
            f"{name}.{half}": getattr(change, half)
            for name, change in changes.items()
            for half in ("up", "down")
        },
    )
