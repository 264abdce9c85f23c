"""Who can do the two models' jobs. No torch is imported until somebody is loaded who needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from medfocus.engine.artifact import (
    CLASSIFIER_WEIGHTS,
    EngineDirectory,
    read_engine_directory,
)
from medfocus.engine.backends import NAMES, Array
from medfocus.engine.images import SourceImage
from medfocus.errors import InputError

OURS = "medfocus"
# Each as its own users would run it, with the engine's weights.
PEERS = {
    "upstream": "sam2 + open_clip",
    "autocast": "sam2 + open_clip, autocast",
    "compile": "sam2 + open_clip, compiled",
    "onnx": "plain ONNX export",
    "transformers": "transformers",
}


@dataclass(frozen=True, eq=False)
class Models:
    """Both models, loaded, whoever runs them. Pixels in: each prepares them in its own way.

    Attributes:
        segment: B images to focus logits (B, h, w).
        classify: B images and their focus logits to embeddings (B, E).
        steered: whether the focus moves the embedding at all.
        close: gives back what they hold.
    """

    segment: Callable[[Sequence[SourceImage]], Array]
    classify: Callable[[Sequence[SourceImage], Array], Array]
    steered: bool
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Contender:
    """Somebody who can be loaded, here or in a process of its own.

    Attributes:
        name: as tables have it.
        precision: in what it computes.
        way: a backend's name, or one of `PEERS`.
        engine: the engine directory whose models, weights and prompts it takes.
        device: cpu or cuda.
    """

    name: str
    precision: str
    way: str
    engine: Path
    device: str

    def load(self) -> Models:
        """Both models, ready to run.

        Raises:
            MedfocusError: what it runs on is not there, or cannot load the models.
        """
        # Imported here and not above: who needs no torch must start without it.
        directory = read_engine_directory(self.engine)
        if self.way in NAMES:
            from medfocus.benchmarks.engine_models import engine_models

            return engine_models(directory, self.way, self.device)
        _require_plain(directory)
        if self.way == "transformers":
            from medfocus.benchmarks.transformers_peer import transformers_models

            return transformers_models(directory, self.device, self.precision)
        from medfocus.benchmarks.upstream import upstream_models

        return upstream_models(directory, self.device, self.way, self.precision)


def _require_plain(directory: EngineDirectory) -> None:
    """Raise InputError where no other code has this image encoder."""
    from medfocus.models.adapter import PROMPTS  # which imports torch, as every peer does

    with safe_open(directory.file(CLASSIFIER_WEIGHTS), "numpy") as tensors:
        if PROMPTS in tensors.keys():  # noqa: SIM118
            problem = "has visual prompts, which no peer's CLIP knows"
            raise InputError("the engine's head", problem, "leave the peers out")


def engine_contenders(
    directories: Sequence[EngineDirectory], backends: Sequence[str] | None, device: str
) -> list[Contender]:
    """Each engine on each of its backends, or on those named; a backend and precision once."""
    found: dict[tuple[str, str], Contender] = {}
    for directory in directories:
        for way, precision in directory.manifest.backends.items():
            if backends is None or way in backends:
                contender = Contender(f"{OURS}, {way}", precision, way, directory.path, device)
                found.setdefault((way, precision), contender)
    return list(found.values())


def peer_contenders(
    directory: EngineDirectory, peers: Sequence[str], device: str
) -> list[Contender]:
    """Those of `PEERS` named, in that order, in half precision where that is meant or faster."""
    half = "fp16" if device == "cuda" else "bf16"
    precisions = {"autocast": half, "compile": "fp32" if emulates_half(device) else half}
    return [
        Contender(PEERS[way], precisions.get(way, "fp32"), way, directory.path, device)
        for way in peers
    ]


def emulates_half(device: str) -> bool:
    """Whether half precision is far slower than fp32 in PyTorch here: oneDNN wants AVX-512."""
    import torch

    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
