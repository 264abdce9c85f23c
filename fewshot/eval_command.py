"""`medfocus-eval`: how good a head is, or every adaptation beside the others, with intervals.

medfocus-eval scans/ --head head.safetensors
medfocus-eval scans/ --grid --report report/
medfocus-eval phantoms --grid --report report/      four sets drawn by code; an hour on two cores
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medfocus.atomic_write import atomic_write
from medfocus.engine.io.results import printable
from medfocus.errors import InputError, MedfocusError
from medfocus.fewshot.adapt.fit import STEPS, Adaptation
from medfocus.fewshot.backbones import choose_device, load_backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.images import leave_out_unreadable
from medfocus.fewshot.data.splitting.splits import Fraction, tested_split
from medfocus.fewshot.fit_command import split_path
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.model_options import add_model_options, read_data, weight_sources, whole
from medfocus.fewshot.study.evaluate import evaluate_head
from medfocus.fewshot.study.grid import Grid, run_grid
from medfocus.fewshot.study.phantoms import phantom_datasets
from medfocus.fewshot.study.reporting.answers import answers_csv
from medfocus.fewshot.study.reporting.evidence import evidence_of, study_evidence
from medfocus.fewshot.study.reporting.hits import hit_gains, study_overlaps
from medfocus.fewshot.study.reporting.paper import paper_table
from medfocus.fewshot.study.reporting.report import write_report
from medfocus.fewshot.study.reporting.summary import console_table, summarise
from medfocus.fewshot.study.run import Run
from medfocus.fewshot.study.worker import StudyConfig, Worker
from medfocus.models.head import Head
from medfocus.settings import FocusMode

OK, UNUSABLE, INTERRUPTED = 0, 2, 130
PHANTOMS = "phantoms"  # in place of a data set: the four sets that are drawn by code
PIPED_WIDTH = 130  # characters; wide enough for every column
AMOUNTS = tuple(map(Fraction, (0.05, 0.1, 0.2, 0.5, 1.0)))  # the paper's


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 2 where something cannot be used; 130 for Ctrl-C.
    """
    options = _parser().parse_args(argv)
    report = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        runs, page = _grid(options, report) if options.grid else _head(options, report)
    except MedfocusError as error:
        report.print(f"error: {printable(str(error))}")
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted. To go on where it stopped, give the same command again")
        return INTERRUPTED
    rows = summarise(runs)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(console_table(rows, "accuracy, with 95% intervals"))
    if options.protocol:
        drawn = options.datasets == [PHANTOMS]
        learned = [row.adaptation for row in rows if row.adaptation != "zero-shot"]
        for adaptation in dict.fromkeys(learned):
            console.print(paper_table(rows, adaptation, drawn))
    report.print(f"{page}: the report")
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medfocus-eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "datasets",
        metavar="DATASET",
        nargs="+",
        help=f"image folders or CSV files; or {PHANTOMS}: four sets drawn by code",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--head", metavar="FILE", type=Path, help="evaluate this head")
    what.add_argument("--grid", action="store_true", help="run all adaptations and focus modes")
    add("--report", metavar="DIR", type=Path, default=Path("report"), help="default: %(default)s")
    add("--protocol", choices=("paper",), help="also show the paper's table, with its figures")
    grid = parser.add_argument_group("the grid")
    add = grid.add_argument
    add("--adapt", metavar="LIST", default="zero-shot,probe,lora", help=_known(Adaptation))
    add("--focus", metavar="LIST", default="none,overlay,soft,hard", help="default: %(default)s")
    add("--seeds", metavar="N", type=whole(1), default=5, help="default: %(default)s")
    add("--steps", metavar="N", type=whole(1), default=STEPS, help="default: %(default)s")
    add_model_options(parser)
    return parser


def _known(names: object) -> str:
    return "of " + ", ".join(get_args(names)) + "; default: %(default)s"


def _head(options: argparse.Namespace, report: Console) -> tuple[list[Run], Path]:
    """Evaluate one head: on the test part of its split, or on all of another data set."""
    if len(options.datasets) != 1 or options.datasets == [PHANTOMS]:
        raise InputError("--head", "is of one data set", "name that one")
    head = Head.read(options.head)
    dataset = read_data(Path(options.datasets[0]), options.recipe, options.classes)
    split = tested_split(split_path(options.head), dataset)
    backbones = load_backbones(options.preset, weight_sources(options), options.device)
    left_out = 0
    if options.skip_bad:
        items = [dataset.items[index] for index in split.test]
        good = set(leave_out_unreadable(items, backbones.check, report))
        kept = tuple(file for file in split.test_files if dataset.items[file.index] in good)
        left_out = len(items) - len(kept)
        split = replace(split, test_files=kept)
    with _progress(report) as progress:
        store = FocusStore(options.cache, backbones)
        run, examples = evaluate_head(head, dataset, split, backbones, store, progress)
        explanations, pictures = evidence_of(dataset.name, head, examples, backbones)
    files = [file.file for file in split.test_files]
    atomic_write(options.report / "answers.csv", answers_csv(run, examples, files))
    title = f"{dataset.name}: {head.adaptation}, focus {head.focus}"
    page = write_report(options.report, title, [run], explanations, pictures, left_out=left_out)
    return [run], page


def _grid(options: argparse.Namespace, report: Console) -> tuple[list[Run], Path]:
    """Run what is missing of the grid, and report on all of it."""
    grid = Grid(
        cast(tuple[FocusMode, ...], _listed(options.focus, FocusMode, "--focus")),
        cast(tuple[Adaptation, ...], _listed(options.adapt, Adaptation, "--adapt")),
        AMOUNTS,
        options.seeds,
        ("true", "random"),
    )
    datasets = _datasets(options)
    plan = StudyConfig(
        options.preset,
        weight_sources(options),
        choose_device(options.device),
        options.cache,
        datasets,
        options.steps,
    )
    worker = Worker(plan)
    left_out = worker.leave_out_bad(report) if options.skip_bad else 0
    with _progress(report) as progress:
        worker.read_all(progress)
        runs = run_grid(options.report, worker, grid, progress)
        explanations, pictures = study_evidence(worker, grid, progress)
    hits = hit_gains(runs, study_overlaps(worker, grid))
    title = "Few-shot: " + ", ".join(datasets)
    page = write_report(options.report, title, runs, explanations, pictures, hits, left_out)
    return runs, page


def _datasets(options: argparse.Namespace) -> dict[str, Dataset]:
    if options.datasets == [PHANTOMS]:
        return phantom_datasets(options.report / PHANTOMS)
    recipes = options.recipe.split(",") if options.recipe else [None] * len(options.datasets)
    if len(recipes) != len(options.datasets):
        raise InputError(f"--recipe {options.recipe}", "is not one a data set", "name one of each")
    datasets = [
        read_data(Path(path), recipe, options.classes)
        for path, recipe in zip(options.datasets, recipes, strict=True)
    ]
    named = {dataset.name: dataset for dataset in datasets}
    if len(named) != len(datasets):
        raise InputError("data sets", "two have one name", "rename one's folder or file")
    return named


def _listed(text: str, names: object, flag: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in get_args(names):
            known = ", ".join(get_args(names))
            raise InputError(f"{flag} {name!r}", "is not known", f"use some of {known}")
    return chosen


def _progress(report: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=report,
    )
