"""What few-shot adaptation learns, and export builds in: class embeddings and focus strengths."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medfocus.errors import WeightsError


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier on top of CLIP's image embedding.

    Attributes:
        clip: the name of the CLIP architecture that it was made for.
        classes: C class names.
        class_embeddings: (C, E) float32.
        logit_scale: () float32, CLIP's factor on the cosine, after exp.
        strength: (L,) float32, λ of each layer.
    """

    clip: str
    classes: tuple[str, ...]
    class_embeddings: Tensor
    logit_scale: Tensor
    strength: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as they are stored."""
        return {
            "class_embeddings": self.class_embeddings.contiguous(),
            "logit_scale": self.logit_scale.contiguous(),
            "strength": self.strength.contiguous(),
        }

    def save(self, path: Path) -> None:
        """Write a .safetensors file; names go into its metadata."""
        path.parent.mkdir(parents=True, exist_ok=True)
        names = {"clip": self.clip, "classes": json.dumps(self.classes)}
        save_file(self.tensors(), path, metadata=names)

    @classmethod
    def read(cls, path: Path) -> "Head":
        """Read what `save` wrote.

        Raises:
            WeightsError: missing, no safetensors file, or no head.
        """
        mend = "make one with python -m medfocus.fewshot.probe"
        try:
            with safe_open(path, "pt") as file:
                names = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(str(path), f"is no head file ({error})", mend) from error
        try:
            head = cls(names["clip"], tuple(json.loads(names["classes"])), **tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(str(path), "is a safetensors file, but no head", mend) from error
        if head.class_embeddings.shape[:1] != (len(head.classes),):
            raise WeightsError(str(path), "has another number of classes than embeddings", mend)
        return head


def uniform_strength(layers: int, strength: float = 1.0) -> Tensor:
    """The same λ in every layer: (L,) float32."""
    return torch.full((layers,), strength)
