"""Whether `medfocus-bench` can be believed on this machine: A against A, and a planted slow-down.

    python -m medfocus.benchmarks.experiments.self_check ENGINE -o benchmarks/results/cpu/self_check.json

Runs the classifier on the engine's first backend beside upstream's own again and again. How often
is the peer as fast as itself, by its own interval? How often does the comparison find a classifier
that takes a tenth longer, and how often one that is the same?
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.progress import track

from medfocus.benchmarks.baselines.implementations import (
    baseline_implementations,
    engine_implementations,
)
from medfocus.benchmarks.bench.environment import Environment, environment_of
from medfocus.benchmarks.bench.report.regressions import regressions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import quantile
from medfocus.benchmarks.bench.timing.interleaved import race
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.export.validate.images import phantoms

BATCH = 8
SLOWER = 1.1


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.experiments.self_check")
    parser.add_argument("engine", metavar="ENGINE", type=Path)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=14.0, help="of a run")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(options.engine, options.runs, options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measure(path: Path, runs: int, seconds: float) -> dict[str, Any]:
    """Counts, of `runs` pairs of runs of which the second has the planted slow-down."""
    directory = read_engine_directory(path)
    images = phantoms(BATCH)
    environment = environment_of(Path.cwd(), "cpu")
    peer = baseline_implementations(directory, ["upstream"], "cpu")[0].load()
    contender = engine_implementations([directory], None, "cpu")[0]
    ours = contender.load()
    logits = ours.segment(images)
    work = {
        "peer": partial(peer.classify, images, logits),
        "ours": partial(ours.classify, images, logits),
    }
    row = partial(_row, contender.name, contender.precision, seconds, environment)
    same: list[BenchRow] = []
    slowed: list[BenchRow] = []
    for _ in track(range(runs), "pairs of runs"):
        same.append(row(work))
        slowed.append(row({**work, "ours": partial(_slower, work["ours"])}))
    pairs = list(pairwise(same))
    return {
        "environment": asdict(environment),
        "contender": f"{contender.name}, {contender.precision}, classifier, batch {BATCH}",
        "seconds": seconds,
        "rounds": quantile([row.rounds for row in same], 0.5),
        "slower": SLOWER,
        "runs": 2 * runs,
        "peer_as_fast_as_itself": sum(not row.too_noisy for row in same + slowed),
        "slowed": runs,
        "slowed_found": sum(
            bool(regressions([old], [new])) for old, new in zip(same, slowed, strict=True)
        ),
        "unchanged": len(pairs),
        "unchanged_blamed": sum(bool(regressions([old], [new])) for old, new in pairs),
    }


def _row(
    name: str,
    precision: str,
    seconds: float,
    environment: Environment,
    work: Mapping[str, Callable[[], object]],
) -> BenchRow:
    found = race(work, "peer", seconds)["ours"]
    figures = found.figures(BATCH, "upstream")
    return BenchRow("models", "classifier", name, precision, BATCH, "", environment, **figures)


def _slower(run: Callable[[], object]) -> None:
    """The run, and a tenth of its time idle."""
    began = time.perf_counter()
    run()
    until = began + SLOWER * (time.perf_counter() - began)
    while time.perf_counter() < until:
        pass


if __name__ == "__main__":
    main()
