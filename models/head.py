"""What few-shot adaptation learns, and export builds in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medfocus.atomic_write import atomic_write
from medfocus.errors import WeightsError
from medfocus.models.graphs import Cache
from medfocus.settings import FocusMode

# λ of every layer where nothing was learned and the CLIP never met a steered attention: 1 in all
# layers takes the early ones their context and does harm (benchmarks/experiments/strength.py, docs/tiny.md).
DEFAULT_STRENGTH = 0.2

_ABOUT = "head"  # the key of what a head file holds beside its tensors, as JSON
_ADAPTER = "adapter."  # before the names of the adapter's tensors in a head file


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier on top of CLIP's image embedding.

    Attributes:
        clip: the name of the CLIP architecture that it was made for.
        clip_sha256: of that CLIP's weight file; the same names with other weights do not fit.
        focus: the focus mode that it was made with.
        classes: C class names.
        class_embeddings: (C, E) float32.
        logit_scale: () float32, CLIP's factor on the cosine, after exp, over the temperature.
        strength: (L,) float32, λ of each layer.
        cache: few-shot images that it remembers, if any, their values over the temperature.
        adapter: what changes in the image encoder, see `models.adapter`.
        adaptation: how it was made.
        temperature: what the logits were divided by, so that probabilities say how often it is
            right; 1 where nothing was fitted.
        trained_on: SHA-256 of the pixels of each image that it learned from, so that it is never
            evaluated on one of them.

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
    cache: Cache | None = None
    adapter: Mapping[str, Tensor] = field(default_factory=dict)
    adaptation: str = "zero-shot"
    temperature: float = 1.0
    trained_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in self.tensors().values()]
        fits = (
            self.class_embeddings.ndim == 2
            and shapes[0][0] == len(self.classes) > 0
            and shapes[1] == ()
            and self.strength.ndim == 1
            and (self.cache is None or self._cache_fits(self.cache))
        )
        if not fits:
            raise WeightsError(
                "head",
                f"{len(self.classes)} classes do not fit tensors of shapes {shapes}",
                "give (C, E) class embeddings, a logit scale of no dimension, (L,) strengths",
            )
        for name, tensor in {**self.tensors(), **self.adapter}.items():
            if not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise WeightsError("head", f"{name} holds what is no finite float", "fit it anew")

    def _cache_fits(self, cache: Cache) -> bool:
        count = len(cache.keys)
        return (
            cache.keys.shape == (count, self.class_embeddings.shape[1])
            and cache.values.shape == (count, len(self.classes))
            and cache.sharpness.ndim == 0
        )

    def tensors(self) -> dict[str, Tensor]:
        """What the classifier's graph takes, by name; `graph_tensors` reads it back."""
        cache = {} if self.cache is None else self.cache._asdict()
        tensors = {
            "class_embeddings": self.class_embeddings,
            "logit_scale": self.logit_scale,
            "strength": self.strength,
            **{f"cache_{name}": tensor for name, tensor in cache.items()},
        }
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def save(self, path: Path) -> None:
        """Write a .safetensors file, whole; all but the tensors goes into its metadata.

        Raises:
            InputError: the file cannot be written.
        """
        about = {
            "clip": self.clip,
            "clip_sha256": self.clip_sha256,
            "focus": self.focus,
            "classes": self.classes,
            "adaptation": self.adaptation,
            "temperature": self.temperature,
            "trained_on": self.trained_on,
        }
        adapter = {f"{_ADAPTER}{name}": part.contiguous() for name, part in self.adapter.items()}
        # One entry: several would be stored in an order that changes from run to run.
        atomic_write(path, save({**self.tensors(), **adapter}, {_ABOUT: json.dumps(about)}))

    @classmethod
    def read(cls, path: Path) -> "Head":
        """Read what `save` wrote.

        Raises:
            WeightsError: missing, no safetensors file, or no head.
        """
        hint = "make one with medfocus-fit"
        try:
            with safe_open(path, "pt") as file:
                about = (file.metadata() or {}).get(_ABOUT, "{}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(str(path), f"is no head file ({error})", hint) from error
        try:
            adapter = {
                name.removeprefix(_ADAPTER): tensors.pop(name)
                for name in [*tensors]
                if name.startswith(_ADAPTER)
            }
            content = dict(json.loads(about))
            return cls(
                classes=tuple(content.pop("classes")),
                temperature=float(content.pop("temperature")),
                trained_on=tuple(content.pop("trained_on")),
                adapter=adapter,
                **content,
                **graph_tensors(tensors),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(str(path), "is a safetensors file, but no head", hint) from error
        except WeightsError as error:
            raise WeightsError(str(path), error.problem, error.hint) from error


def graph_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `Head.tensors` gave, as arguments of `Head` and of `ClassifierGraph`."""
    arguments: dict[str, Any] = dict(tensors)
    if "cache_keys" in arguments:
        arguments["cache"] = Cache(*(arguments.pop(f"cache_{name}") for name in Cache._fields))
    return arguments


def uniform_strength(layers: int, strength: float = DEFAULT_STRENGTH) -> Tensor:
    """The same λ in every layer: (L,) float32."""
    return torch.full((layers,), strength)
