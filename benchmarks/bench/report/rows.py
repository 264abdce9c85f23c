"""A row of `medfocus-bench`: one implementation, its speed and its accuracy in the same run."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import FileError
from medfocus.files.atomic_write import atomic_write
from medfocus.files.file_errors import unreadable

MEASURED = "measured"
BOTH = "both models"
RATIOS = ("ratio", "noise")
# Fields as files written before medfocus 0.2 name them.
OLD_NAMES = {"contender": "implementation", "peer": "baseline"}
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class BenchRow:
    """One implementation in one case.

    Attributes:
        part: of the command: "models", "startup".
        what: was measured, in words.
        implementation: name of what was measured; precision: in which it computes.
        batch: batch size; 0 where there is none.
        setting: what else was varied: "4 prompts"; empty where nothing was.
        environment: where and when.
        status: `measured`, or why not.
        rounds: how often it was timed.
        images_per_second: by the median round.
        p50_ms, p95_ms: of a whole batch, over the rounds; times_ms: in each round.
        peak_memory: MiB, of a process that loads it and answers one batch.
        roofline_share: the least time by this machine's measured rates, over the median.
        accuracy: compared with float32, of exactly what was timed; accuracy_of: which measure.
        baseline: what the ratio is to.
        ratio: of its images per second to the baseline's, round by round; above 1 it is faster.
        noise: the same of the baseline to itself; the run is too noisy where 1 is not in it.
        ratios: to the other baselines, by their names.
    """

    part: str
    what: str
    implementation: str
    precision: str
    batch: int
    setting: str
    environment: Environment
    status: str = MEASURED
    rounds: int = 0
    images_per_second: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    times_ms: tuple[float, ...] = ()
    peak_memory: float | None = None
    roofline_share: float | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    baseline: str = ""
    ratio: Ratio | None = None
    noise: Ratio | None = None
    ratios: Mapping[str, Ratio] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """What identifies it: the same case of the same implementation in two runs."""
        return self.part, self.what, self.implementation, self.precision, self.batch, self.setting

    @property
    def name(self) -> str:
        """The key in words."""
        part, what, implementation, precision, batch, setting = self.key
        size = f"batch {batch}" if batch else ""
        words = (part, what, implementation, precision, size, setting)
        return ", ".join(word for word in words if word)

    @property
    def measured(self) -> bool:
        """Whether it has figures."""
        return self.status == MEASURED

    @property
    def too_noisy(self) -> bool:
        """Whether the baseline's ratio to itself differs from 1 by more than its interval."""
        return self.noise is not None and not self.noise.low <= 1 <= self.noise.high


def write_json(path: Path, rows: Sequence[Any]) -> None:
    """Write rows, `BenchRow` or other dataclasses, as a list of objects."""
    listed = [_rounded(asdict(row)) for row in rows]
    atomic_write(path, json.dumps(listed, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> list[BenchRow]:
    """The rows of a file that `write_json` wrote.

    Raises:
        FileError: a file that cannot be read, or holds something else.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(listed, list):
            raise TypeError("not a list")
        return [row_of(BenchRow, each) for each in listed]
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem, hint = "has no rows of medfocus-bench", "give a file that --json wrote"
        raise FileError(str(path), problem, hint, code="bench.no_rows") from error


def row_of(kind: type[_Row], content: Mapping[str, Any]) -> _Row:
    """A `BenchRow` or a kernel's row from its JSON object."""
    values = {OLD_NAMES.get(name, name): value for name, value in content.items()}
    for name in RATIOS:
        values[name] = values[name] and Ratio(*values[name])
    values["environment"] = Environment(**values["environment"])
    if "times_ms" in values:
        values["times_ms"] = tuple(values["times_ms"])
        others = values.get("ratios", {})
        values["ratios"] = {name: Ratio(*each) for name, each in others.items()}
    return kind(**values)


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Write a line per row, without the single rounds' times.

    A ratio has three columns; the environment's columns come last.
    """
    lines = [_flat(_rounded(asdict(row))) for row in rows]
    names = [*dict.fromkeys(name for line in lines for name in line)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(lines)
    atomic_write(path, text.getvalue())


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    environment = content.pop("environment")
    content.pop("times_ms", None)
    ratios = {f"ratio to {name}": value for name, value in content.pop("ratios", {}).items()}
    line: dict[str, Any] = {}
    for name, value in (content | ratios).items():
        if name in RATIOS or name in ratios:
            median, low, high = value or (None,) * 3
            line |= {name: median, f"{name}_low": low, f"{name}_high": high}
        else:
            line[name] = value
    return {**line, **environment, **environment.pop("versions")}


def _rounded(value: Any) -> Any:
    """Four significant digits: more than a timing's precision."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_rounded(each) for each in value]
    return value
