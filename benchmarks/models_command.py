"""`medfocus-bench models`: both models on every backend of an engine, beside their peers."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from medfocus.benchmarks.bench_table import bench_table, missing_lines
from medfocus.benchmarks.cli import INTERRUPTED, OK, WORSE, positive, seconds
from medfocus.benchmarks.environment import Environment, environment_of
from medfocus.benchmarks.model_contenders import (
    OURS,
    UPSTREAM,
    Models,
    engine_models,
    reference_models,
    upstream_models,
)
from medfocus.benchmarks.models_part import BOTH, PART, model_rows
from medfocus.benchmarks.regressions import regressions
from medfocus.benchmarks.rows import Row, read_json, write_csv, write_json
from medfocus.engine.artifact import read_engine_directory
from medfocus.engine.results import printable
from medfocus.errors import InputError, MedfocusError
from medfocus.export.check_images import phantoms


def add_parser(parts: Any) -> None:
    """The part's own arguments."""
    part = parts.add_parser("models", help="segmenter and classifier on every backend")
    part.set_defaults(run=run)
    add = part.add_argument
    add("--engine", metavar="DIR", type=Path, nargs="+", required=True,
        help="engine directories of the same models, the first with the target torch")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--batch", metavar="B", type=positive, default=8, help="images; default 8")
    add("--seconds", metavar="S", type=seconds, default=20.0, help="a job; default 20")
    add("--json", metavar="FILE", type=Path, help="write the rows as a list")
    add("--csv", metavar="FILE", type=Path, help="write them as a table")
    add("--compare", metavar="OLD.json", type=Path, help="exit 1 and name what became worse")


def run(options: argparse.Namespace, report: Console) -> int:
    """Measure, write what was asked for, print the table; interrupted, what there is by then.

    Returns:
        The exit status.
    """
    old = None if options.compare is None else read_json(options.compare)
    environment = environment_of(Path.cwd())
    rows: list[Row] = []
    interrupted = False
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=report) as progress:
        task = progress.add_task("loading", total=None)
        try:
            _measure(options, environment, rows, partial(_say, progress, task))
        except KeyboardInterrupt:
            interrupted = True
    if options.json:
        write_json(options.json, rows)
    if options.csv:
        write_csv(options.csv, rows)
    if any(row.measured for row in rows):
        Console().print(bench_table(rows))
    for line in missing_lines(rows):
        report.print(printable(line), markup=False)
    for row in rows:
        if row.too_noisy and not row.peer:
            report.print(f"{row.name}: too noisy, the peer was not as fast as itself", markup=False)
    if interrupted:
        report.print(f"Interrupted; rows measured until then: {len(rows)}")
        return INTERRUPTED
    worse = [] if old is None else regressions(old, rows)
    for regression in worse:
        report.print(f"{regression.row.name}: {regression.problem}", markup=False)
    return WORSE if worse else OK


def _say(progress: Progress, task: Any, what: str) -> None:
    progress.update(task, description=what)


def _measure(
    options: argparse.Namespace,
    environment: Environment,
    rows: list[Row],
    say: Callable[[str], object],
) -> None:
    """Append the rows as they are measured."""
    directories = [read_engine_directory(path) for path in options.engine]
    first = directories[0]
    for directory in directories[1:]:
        if directory.manifest.models != first.manifest.models:
            raise InputError(
                "--engine", "names engines of different models", "measure them one by one"
            )
    reference = reference_models(first)
    wanted: list[tuple[str, str, Callable[[], Models]]] = [
        (UPSTREAM, "fp32", partial(upstream_models, first, options.device))
    ]
    for directory in directories:
        wanted += [
            (f"{OURS}, {name}", arithmetic, partial(engine_models, directory, name, options.device))
            for name, arithmetic in directory.manifest.backends.items()
        ]
    contenders: list[Models] = []
    for name, precision, load in wanted:
        say(f"loading {name}")
        try:
            contenders.append(load())
        except MedfocusError as error:
            missing = Row(PART, BOTH, name, precision, options.batch, "", environment, str(error))
            rows.append(missing)
    images = phantoms(options.batch)
    try:
        if contenders:  # `extend` keeps what came before an interrupt
            rows.extend(
                model_rows(contenders, reference, images, options.seconds, environment, say)
            )
    finally:
        for models in (reference, *contenders):
            models.close()
