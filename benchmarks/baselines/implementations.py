"""Who can do the two models' jobs. No torch is imported until somebody is loaded who needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS
from medfocus.engine.backends.registry import NAMES
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.graphs import Array
from medfocus.errors import InputError

OURS = "medfocus"
# Each as its own users would run it, with the engine's weights.
BASELINES = {
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
class Implementation:
    """Somebody who can be loaded, here or in a process of its own.

    Attributes:
        name: as tables have it.
        precision: in what it computes.
        way: a backend's name, or one of `BASELINES`.
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
            from medfocus.benchmarks.baselines.engine_models import engine_models

            return engine_models(directory, self.way, self.device)
        _require_plain(directory)
        if self.way == "transformers":
            from medfocus.benchmarks.baselines.transformers import transformers_models

            return transformers_models(directory, self.device, self.precision)
        from medfocus.benchmarks.baselines.upstream import upstream_models

        return upstream_models(directory, self.device, self.way, self.precision)


def _require_plain(directory: EngineDirectory) -> None:
    """Raise InputError where no other code has this image encoder."""
    from medfocus.models.clip.adapter import PROMPTS  # which imports torch, as every peer does

    with safe_open(directory.file(CLASSIFIER_WEIGHTS), "numpy") as tensors:
        if PROMPTS in tensors.keys():  # noqa: SIM118
            problem = "has visual prompts, which no peer's CLIP knows"
            raise InputError("the engine's head", problem, "leave the peers out")


def engine_implementations(
    directories: Sequence[EngineDirectory], backends: Sequence[str] | None, device: str
) -> list[Implementation]:
    """Each engine on each of its backends, or on those named; a backend and precision once."""
    found: dict[tuple[str, str], Implementation] = {}
    for directory in directories:
        for way, precision in directory.manifest.backends.items():
            if backends is None or way in backends:
                contender = Implementation(f"{OURS}, {way}", precision, way, directory.path, device)
                found.setdefault((way, precision), contender)
    return list(found.values())


def baseline_implementations(
    directory: EngineDirectory, peers: Sequence[str], device: str
) -> list[Implementation]:
    """Those of `BASELINES` named, in that order, in half precision where that is meant or faster."""
    half = "fp16" if device == "cuda" else "bf16"
    precisions = {"autocast": half, "compile": "fp32" if emulates_half(device) else half}
    return [
        Implementation(BASELINES[way], precisions.get(way, "fp32"), way, directory.path, device)
        for way in peers
    ]


def emulates_half(device: str) -> bool:
    """Whether half precision is far slower than fp32 in PyTorch here: oneDNN wants AVX-512."""
    import torch

    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
