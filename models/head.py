"""What few-shot adaptation learns, and export builds in: class embeddings and focus strengths."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medfocus.errors import WeightsError
from medfocus.settings import FocusMode

# λ of every layer where nothing was learned. 1 in all layers takes the early ones their context
# and does harm; benchmarks/strength.py measured it on validation phantoms (docs/tiny.md).
DEFAULT_STRENGTH = 0.2


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier on top of CLIP's image embedding.

    Attributes:
        clip: the name of the CLIP architecture that it was made for.
        clip_sha256: of that CLIP's weight file; the same names with other weights do not fit.
        focus: the focus mode that it was made with.
        classes: C class names.
        class_embeddings: (C, E) float32.
        logit_scale: () float32, CLIP's factor on the cosine, after exp.
        strength: (L,) float32, λ of each layer.

    Raises:
        WeightsError: shapes that do not fit together, or numbers that are not finite.
    """

    clip: str
    clip_sha256: str
    focus: FocusMode
    classes: tuple[str, ...]
    class_embeddings: Tensor
    logit_scale: Tensor
    strength: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in self.tensors().values()]
        fits = (
            self.class_embeddings.ndim == 2
            and shapes[0][0] == len(self.classes) > 0
            and shapes[1] == ()
            and self.strength.ndim == 1
        )
        if not fits:
            raise WeightsError(
                "head",
                f"{len(self.classes)} classes do not fit tensors of shapes {shapes}",
                "give (C, E) class embeddings, a logit scale of no dimension, (L,) strengths",
            )
        for name, tensor in self.tensors().items():
            if not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise WeightsError("head", f"{name} holds what is no finite float", "fit it anew")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as they are stored."""
        return {
            "class_embeddings": self.class_embeddings.contiguous(),
            "logit_scale": self.logit_scale.contiguous(),
            "strength": self.strength.contiguous(),
        }

    def save(self, path: Path) -> None:
        """Write a .safetensors file; all but the tensors goes into its metadata.

        Raises:
            WeightsError: the file cannot be written.
        """
        about = {
            "clip": self.clip,
            "clip_sha256": self.clip_sha256,
            "focus": self.focus,
            "classes": json.dumps(self.classes),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(save(self.tensors(), about))
        except OSError as error:
            raise WeightsError(
                str(path), f"cannot be written ({error.strerror})", "choose another place"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Head":
        """Read what `save` wrote.

        Raises:
            WeightsError: missing, no safetensors file, or no head.
        """
        mend = "make one with python -m medfocus.fewshot.probe"
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(str(path), f"is no head file ({error})", mend) from error
        try:
            classes = tuple(json.loads(about.pop("classes")))
            return cls(classes=classes, **about, **tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(str(path), "is a safetensors file, but no head", mend) from error
        except WeightsError as error:
            raise WeightsError(str(path), error.problem, error.mend) from error


def uniform_strength(layers: int, strength: float = DEFAULT_STRENGTH) -> Tensor:
    """The same λ in every layer: (L,) float32."""
    return torch.full((layers,), strength)
