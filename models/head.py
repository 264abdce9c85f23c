"""The head: what few-shot adaptation learns, and an export includes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medfocus.errors import WeightsError
from medfocus.files.atomic_write import atomic_write
from medfocus.models.graphs import Cache
from medfocus.settings import FocusMode

# λ of every layer where nothing was learned and CLIP was not trained with steered attention: 1 in
# all layers deprives the early ones of context and does harm (docs/tiny.md).
DEFAULT_STRENGTH = 0.2

_ABOUT = "head"  # the metadata key of everything in a head file except tensors, as JSON
_ABOUT_TYPES = {
    "clip": str,
    "clip_sha256": str,
    "focus": str,
    "classes": list,
    "adaptation": str,
    "temperature": float,
    "trained_on": list,
}
_ADAPTER = "adapter."  # prefix of the adapter's tensors in a head file


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier on top of CLIP's image embedding.

    Attributes:
        clip: the name of the CLIP architecture for which it was made.
        clip_sha256: of that CLIP's weight file; the same architecture with other weights does not
            fit.
        focus: the focus mode with which it was made.
        classes: C class names.
        class_embeddings: (C, E) float32.
        logit_scale: () float32, CLIP's factor on the cosine, after exp, over the temperature.
        strength: (L,) float32, λ of each layer.
        cache: stored few-shot images, if any, their values over the temperature.
        adapter: changes to the image encoder, see `models.clip.adapter`.
        adaptation: how the head was made.
        temperature: the divisor of the logits that makes probabilities calibrated; 1 if not fitted.
        trained_on: SHA-256 of the pixels of each training image, so that the head is never
            evaluated on one of them.

    Raises:
        WeightsError: shapes do not fit together, or a tensor is not finite (`head.invalid`).
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
                "give (C, E) class embeddings, a scalar logit scale and (L,) strengths",
                code="head.invalid",
            )
        for name, tensor in {**self.tensors(), **self.adapter}.items():
            if not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise _invalid("head", f"{name} contains values that are not finite floats")
            if name not in self.adapter and tensor.dtype != torch.float32:
                raise _invalid("head", f"{name} is {tensor.dtype}, not float32")

    def _cache_fits(self, cache: Cache) -> bool:
        count = len(cache.keys)
        return (
            cache.keys.shape == (count, self.class_embeddings.shape[1])
            and cache.values.shape == (count, len(self.classes))
            and cache.sharpness.ndim == 0
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the classifier's graph, by name; `graph_tensors` is the inverse."""
        cache = {} if self.cache is None else self.cache._asdict()
        tensors = {
            "class_embeddings": self.class_embeddings,
            "logit_scale": self.logit_scale,
            "strength": self.strength,
            **{f"cache_{name}": tensor for name, tensor in cache.items()},
        }
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def save(self, path: Path) -> None:
        """Write a .safetensors file atomically.

        Raises:
            FileError: the file cannot be written (`file.unwritable`).
        """
        atomic_write(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of a .safetensors file; everything except tensors is in its metadata."""
        about = {
            "clip": self.clip,
            "clip_sha256": self.clip_sha256,
            "focus": self.focus,
            "classes": self.classes,
            "adaptation": self.adaptation,
            "temperature": self.temperature,
            "trained_on": self.trained_on,
        }
        adapter = {f"{_ADAPTER}{name}": t.contiguous() for name, t in self.adapter.items()}
        # A single entry: several would be stored in an order that changes from run to run.
        content: bytes = save({**self.tensors(), **adapter}, {_ABOUT: json.dumps(about)})
        return content

    @classmethod
    def read(cls, path: Path) -> "Head":
        """Read a file written by `save`.

        Raises:
            WeightsError: the file is missing or not a safetensors file (`head.unreadable`), or it
                does not contain a valid head (`head.invalid`).
        """
        hint = "make one with medfocus-fit"
        try:
            with safe_open(path, "pt") as file:
                about = (file.metadata() or {}).get(_ABOUT, "{}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            missing = isinstance(error, FileNotFoundError)
            problem = "does not exist" if missing else "cannot be read as a safetensors file"
            raise WeightsError(str(path), problem, hint, code="head.unreadable") from error
        try:
            adapter = {
                name.removeprefix(_ADAPTER): tensors.pop(name)
                for name in [*tensors]
                if name.startswith(_ADAPTER)
            }
            content = _checked(about)
            return cls(
                classes=tuple(content.pop("classes")),
                trained_on=tuple(content.pop("trained_on")),
                adapter=adapter,
                **content,
                **graph_tensors(tensors),
            )
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            problem = "is a safetensors file, but no head"
            raise WeightsError(str(path), problem, hint, code="head.invalid") from error
        except WeightsError as error:
            item = str(path) if error.item == "head" else f"{path}: {error.item}"
            raise WeightsError(item, error.problem, error.hint, code=error.code) from error


def _checked(about: str) -> dict[str, Any]:
    """The metadata of a head file."""
    content = json.loads(about)
    if not isinstance(content, dict) or content.keys() != _ABOUT_TYPES.keys():
        raise ValueError
    for key, kind in _ABOUT_TYPES.items():
        value = content[key]
        texts = kind is not list or all(isinstance(text, str) for text in value)
        if type(value) is not kind or not texts:
            raise _invalid(key, f"is not of type {kind.__name__}")
    if content["focus"] not in get_args(FocusMode):
        raise _invalid("focus", "is no focus mode")
    if not 0 < content["temperature"] < math.inf:
        raise _invalid("temperature", "is no positive number")
    return content


def _invalid(key: str, problem: str) -> WeightsError:
    return WeightsError(key, problem, "retrain the head", code="head.invalid")


def graph_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The result of `Head.tensors` as arguments of `Head` and of `ClassifierGraph`."""
    arguments: dict[str, Any] = dict(tensors)
    if "cache_keys" in arguments:
        arguments["cache"] = Cache(*(arguments.pop(f"cache_{name}") for name in Cache._fields))
    return arguments


def uniform_strength(layers: int, strength: float = DEFAULT_STRENGTH) -> Tensor:
    """The same λ in every layer: (L,) float32."""
    return torch.full((layers,), strength)
