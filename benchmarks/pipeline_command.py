"""`medfocus-bench pipeline`: `Engine.stream` beside the two graphs alone."""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from medfocus.benchmarks.cli import OK, positive
from medfocus.benchmarks.environment import processor
from medfocus.benchmarks.pipeline import Measured, measure
from medfocus.benchmarks.trace import draw_trace, write_trace
from medfocus.engine.backends import NAMES
from medfocus.engine.results import printable


def add_parser(parts: Any) -> None:
    """The part's own arguments."""
    part = parts.add_parser("pipeline", help="Engine.stream beside the two graphs alone")
    part.set_defaults(run=run)
    add = part.add_argument
    add("engine", metavar="ENGINE", type=Path, help="an engine directory")
    add("--backend", choices=("auto", *NAMES), default="auto")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--images", metavar="N", type=positive, default=200, help="a round; default 200")
    add("--rounds", metavar="N", type=positive, default=5, help="default 5")
    add("--torch-engine", metavar="DIR", type=Path, help="the same models in float32 PyTorch")
    add("--trace", metavar="FILE", type=Path, help="write a Chrome trace of the last stream")
    add("--plot", metavar="FILE", type=Path, help="draw its middle as a PNG")
    add("--json", metavar="FILE", type=Path, help="append the run to a JSON list")


def run(options: argparse.Namespace, report: Console) -> int:
    """Measure, write what was asked for, print the tables; the exit status."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=report
    )
    with progress:
        task = progress.add_task("loading and warming up", total=3 * options.rounds)
        turns = iter(range(3 * options.rounds + 1))
        measured = measure(
            options.engine,
            options.backend,
            options.device,
            options.images,
            options.rounds,
            lambda name: progress.update(task, description=name[:40], completed=next(turns)),
            options.torch_engine,
        )
        progress.update(task, description="done", completed=3 * options.rounds)
    _write(measured, options)
    Console().print(_table(measured), _stages(measured))
    for row in measured.rows:
        if row.images_per_second is None:
            report.print(printable(f"{row.contender}: {row.status}"), markup=False)
    return OK


def _write(measured: Measured, options: argparse.Namespace) -> None:
    if options.trace:
        write_trace(measured.spans, options.trace)
    if options.plot:
        title = f"Engine.stream, {options.engine.name}, {processor()}"
        draw_trace(measured.spans, options.plot, title)
    if options.json:
        runs = json.loads(options.json.read_text()) if options.json.exists() else []
        run = {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "engine": options.engine.name,
            "images": options.images,
            "rounds": options.rounds,
            **measured.to_json(),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([*runs, run], indent=1) + "\n")


def _table(measured: Measured) -> Table:
    table = Table(title="images a second, and their ratio to the first row's, round by round")
    table.add_column("contender", overflow="fold")
    for name in ("images/s", "ratio", "quartiles", "same label"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in measured.rows:
        if row.images_per_second is None:
            table.add_row(row.contender, "not there", "", "", "")
            continue
        low, middle, high = row.ratio
        table.add_row(
            row.contender,
            f"{row.images_per_second:.2f}",
            f"{middle:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{row.same_label:.1%}",
        )
    return table


def _stages(measured: Measured) -> Table:
    stats = measured.stats
    latency = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in stats.latency.items())
    table = Table(title=f"Engine.stream's stages; from submission to answer: {latency}")
    table.add_column("stage")
    for name in ("images", "ms an image", "waited, ms an image"):
        table.add_column(name, justify="right")
    for name, stage in stats.stages.items():
        each = 1e3 / max(stage.images, 1)
        busy, waited = f"{each * stage.seconds:.2f}", f"{each * stage.waited:.2f}"
        table.add_row(name, str(stage.images), busy, waited)
    return table
