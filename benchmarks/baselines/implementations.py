"""The implementations of both models that are compared; torch is imported by those that need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from medfocus.benchmarks.baselines.models import OURS, Models, emulates_half
from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.layout import CLASSIFIER_WEIGHTS
from medfocus.engine.backends.registry import NAMES
from medfocus.errors import InputError

# Each as its own users would run it, with the engine's weights.
BASELINES = {
    "upstream": "sam2 + open_clip",
    "autocast": "sam2 + open_clip, autocast",
    "compile": "sam2 + open_clip, compiled",
    "onnx": "plain ONNX export",
    "transformers": "transformers",
}


@dataclass(frozen=True)
class Implementation:
    """An implementation of both models that can be loaded, in this process or in another.

    Attributes:
        name: in tables.
        precision: in which it computes.
        way: a backend's name, or one of `BASELINES`.
        engine: the engine directory whose models, weights and prompts it takes.
        device: cpu or cuda.
    """

    name: str
    precision: str
    way: str
    engine: Path
    device: str

    @property
    def title(self) -> str:
        """Name and precision."""
        return f"{self.name}, {self.precision}"

    def load(self) -> Models:
        """Both models, ready to run.

        Raises:
            MedfocusError: its runtime is not installed, or cannot load the models.
        """
        # Imported here: memory and start of the others must not include it.
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
    from medfocus.models.clip.adapter import PROMPTS  # imports torch, as every baseline does

    with safe_open(directory.file(CLASSIFIER_WEIGHTS), "numpy") as tensors:
        if PROMPTS in tensors.keys():  # noqa: SIM118
            problem = "has visual prompts, which no baseline's CLIP has"
            hint = "measure without baselines (--backends)"
            raise InputError("the engine's head", problem, hint, code="bench.not_comparable")


def engine_implementations(
    directories: Sequence[EngineDirectory], backends: Sequence[str] | None, device: str
) -> list[Implementation]:
    """Each engine on each of its backends, or on those named; each backend and precision once."""
    found: dict[tuple[str, str], Implementation] = {}
    for directory in directories:
        for way, precision in directory.manifest.backends.items():
            if backends is None or way in backends:
                one = Implementation(f"{OURS}, {way}", precision, way, directory.path, device)
                found.setdefault((way, precision), one)
    return list(found.values())


def baseline_implementations(
    directory: EngineDirectory, baselines: Sequence[str], device: str
) -> list[Implementation]:
    """The named ones of `BASELINES`, in half precision where that is meant or faster."""
    half = "fp16" if device == "cuda" else "bf16"
    precisions = {"autocast": half, "compile": "fp32" if emulates_half(device) else half}
    return [
        Implementation(BASELINES[way], precisions.get(way, "fp32"), way, directory.path, device)
        for way in baselines
    ]
