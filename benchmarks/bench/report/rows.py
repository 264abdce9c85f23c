"""A row of `medfocus-bench`: one contender at one job, how fast, and how right in the same run."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medfocus.benchmarks.bench.environment import Environment
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import InputError

MEASURED = "measured"


@dataclass(frozen=True)
class BenchRow:
    """What was found about one contender at one job.

    Attributes:
        part: of the command: "models", "startup".
        what: the job in words.
        contender: who did it; precision: in what numbers it computes.
        batch: images at once; 0 where there are none.
        setting: what else was varied: "4 prompts"; empty where nothing was.
        environment: where and when.
        status: `measured`, or why not.
        rounds: how often it was timed.
        images_per_second: by the median round.
        p50_ms, p95_ms: of a whole batch, over the rounds; times_ms: in each round.
        peak_memory: MiB, of a process that loads it and answers one batch.
        roofline_share: the least time by this machine's measured ceilings over the median.
        accuracy: against float32, on the very artefact that was timed; accuracy_of: its kind.
        peer: whom the ratio is against.
        ratio: of images a second to the peer's, round by round; above 1 this one is faster.
        noise: the same of the peer against itself: 1 lies in it, or the run was too noisy.
    """

    part: str
    what: str
    contender: str
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
    peer: str = ""
    ratio: Ratio | None = None
    noise: Ratio | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """What identifies it: the same job by the same contender in two runs."""
        return self.part, self.what, self.contender, self.precision, self.batch, self.setting

    @property
    def name(self) -> str:
        """The key as a person reads it."""
        batch = f"batch {self.batch}" if self.batch else ""
        words = (self.part, self.what, self.contender, self.precision, batch, self.setting)
        return ", ".join(word for word in words if word)

    @property
    def measured(self) -> bool:
        """Whether its numbers are there."""
        return self.status == MEASURED

    @property
    def too_noisy(self) -> bool:
        """Whether the peer against itself was not 1 within its own interval."""
        return self.noise is not None and not self.noise.low <= 1 <= self.noise.high


def write_json(path: Path, rows: Sequence[BenchRow]) -> None:
    """A list of rows, each with its environment."""
    listed = [_rounded(asdict(row)) for row in rows]
    path.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> list[BenchRow]:
    """What `write_json` wrote.

    Raises:
        InputError: a file that cannot be read, or holds something else.
    """
    try:
        return rows_of(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "check it") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            str(path), "holds no rows of medfocus-bench", "give a file that --json wrote"
        ) from error


def rows_of(listed: Any) -> list[BenchRow]:
    """Rows from what their file holds."""
    return [_row(content) for content in listed]


def write_csv(path: Path, rows: Sequence[BenchRow]) -> None:
    """A line a row, without each round's times; a ratio has three columns, and the environment's
    fields stand behind all others.
    """
    lines = [_flat(_rounded(asdict(row))) for row in rows]
    names = [*dict.fromkeys(name for line in lines for name in line)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def _row(content: dict[str, Any]) -> BenchRow:
    for name in ("ratio", "noise"):
        if content[name] is not None:
            content[name] = Ratio(*content[name])
    content["times_ms"] = tuple(content["times_ms"])
    return BenchRow(**{**content, "environment": Environment(**content["environment"])})


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    environment = content.pop("environment")
    versions = environment.pop("versions")
    del content["times_ms"]
    line: dict[str, Any] = {}
    for name, value in content.items():
        if name in ("ratio", "noise"):
            parts = value or (None,) * 3
            line |= {name: parts[0], f"{name}_low": parts[1], f"{name}_high": parts[2]}
        else:
            line[name] = value
    return {**line, **environment, **versions}


def _rounded(value: Any) -> Any:
    """Four significant digits: more than a timing is worth."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_rounded(each) for each in value]
    return value
