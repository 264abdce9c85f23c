"""What `medfocus-bench` was asked to measure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medfocus.benchmarks.baselines.implementations import (
    Implementation,
    baseline_implementations,
    engine_implementations,
)
from medfocus.benchmarks.bench.environment import Environment
from medfocus.engine.artifact.directory import EngineDirectory


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, where, and for how long; every part takes it and yields rows.

    Attributes:
        engines: of the same models; the first has the target `torch`.
        backends: only these of the engines' own; all where None.
        peers: of `contenders.PEERS`; ratios are against the first.
        device: cpu or cuda.
        batches: images at once.
        images: that `Engine.stream` takes in a round.
        seconds: about how long a job may take.
        environment: where and when.
        say: called with what is measured next.
        trace: where the pipeline's Chrome trace goes, if anywhere; plots: the folder of pictures.
    """

    engines: tuple[EngineDirectory, ...]
    backends: tuple[str, ...] | None
    peers: tuple[str, ...]
    device: str
    batches: tuple[int, ...]
    images: int
    seconds: float
    environment: Environment
    say: Callable[[str], object]
    trace: Path | None = None
    plots: Path | None = None

    @property
    def contenders(self) -> list[Implementation]:
        """The peers first, then every engine on every backend wanted."""
        return [
            *baseline_implementations(self.engines[0], self.peers, self.device),
            *engine_implementations(self.engines, self.backends, self.device),
        ]
