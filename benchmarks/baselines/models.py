"""The interface that all implementations of both models share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array

OURS = "medfocus"


@dataclass(frozen=True, eq=False)
class Models:
    """Both models, loaded. They take pixels: each implementation preprocesses in its own way.

    Attributes:
        segment: B images to focus logits (B, h, w).
        classify: B images and their focus logits to embeddings (B, E).
        steered: whether the focus changes the embedding.
        close: releases what they hold.
    """

    segment: Callable[[Sequence[SourceImage]], Array]
    classify: Callable[[Sequence[SourceImage], Array], Array]
    steered: bool
    close: Callable[[], object] = lambda: None

    def embed(self, images: Sequence[SourceImage]) -> Array:
        """Both models, one after the other: embeddings (B, E)."""
        return self.classify(images, self.segment(images))


def emulates_half(device: str) -> bool:
    """Whether half precision is far slower than fp32 in PyTorch here: oneDNN wants AVX-512."""
    import torch  # not needed by processes that measure a runtime without it

    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
