"""What `medfocus-bench` measures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfocus.benchmarks.baselines.implementations import (
    Implementation,
    baseline_implementations,
    engine_implementations,
)
from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.engine.artifact.directory import EngineDirectory


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, where, and for how long; every part takes these and yields rows.

    Attributes:
        engines: of the same models; the first was exported for `torch`.
        backends: of the engines' own, which ones; all where None.
        baselines: names of `BASELINES`; ratios are to the first.
        device: cpu or cuda.
        batches: batch sizes.
        images: images per round of `Engine.stream`.
        seconds: about how long each case is measured.
        environment: where and when.
        report: called with a line about what is measured next.
        trace: file for the pipeline's Chrome trace; plots: folder for pictures.
    """

    engines: tuple[EngineDirectory, ...]
    backends: tuple[str, ...] | None
    baselines: tuple[str, ...]
    device: str
    batches: tuple[int, ...]
    images: int
    seconds: float
    environment: Environment
    report: Callable[[str], object]
    trace: Path | None = None
    plots: Path | None = None

    @property
    def implementations(self) -> list[Implementation]:
        """The baselines, then every engine on every chosen backend."""
        return [
            *baseline_implementations(self.engines[0], self.baselines, self.device),
            *engine_implementations(self.engines, self.backends, self.device),
        ]

    def row(
        self, part: str, what: str, implementation: Implementation, batch: int, **fields: Any
    ) -> BenchRow:
        """A row of an implementation, with other fields than its first ones by name."""
        name, precision = implementation.name, implementation.precision
        setting = fields.pop("setting", "")
        return BenchRow(part, what, name, precision, batch, setting, self.environment, **fields)
