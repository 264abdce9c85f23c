"""Runs an evaluation once its command line is parsed: one head, or a grid of settings."""

import argparse
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
from rich.table import Table

from medfocus.errors import InputError
from medfocus.fewshot.adapt.names import Adaptation
from medfocus.fewshot.backbones import Backbones, choose_device, load_backbones
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.images import leave_out_unreadable
from medfocus.fewshot.data.splitting.splits import Fraction, Split, tested_split
from medfocus.fewshot.fit_run import split_path
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.model_options import PHANTOMS, read_data, weight_sources
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
from medfocus.files.atomic_write import atomic_write
from medfocus.models.head import Head
from medfocus.models.weights import sha256
from medfocus.settings import FocusMode
from medfocus.terminal import printable

AMOUNTS = tuple(map(Fraction, (0.05, 0.1, 0.2, 0.5, 1.0)))  # the paper's


def evaluate(options: argparse.Namespace, console: Console) -> tuple[list[Table], Path]:
    """Evaluate one head or run a grid, and write the report.

    Returns:
        Tables for the terminal, and the path of the report.

    Raises:
        MedfocusError: what reading the data, loading the weights and evaluating raise.
    """
    runs, page = _grid(options, console) if options.grid else _head(options, console)
    rows = summarise(runs)
    tables = [console_table(rows, "accuracy, with 95% intervals")]
    if options.protocol:
        drawn = options.datasets == [PHANTOMS]
        trained = [row.adaptation for row in rows if row.adaptation != "zero-shot"]
        tables += [paper_table(rows, name, drawn) for name in dict.fromkeys(trained)]
    return tables, page


def _head(options: argparse.Namespace, console: Console) -> tuple[list[Run], Path]:
    """Evaluate one head: on the test part of its split, or on all of another data set."""
    if len(options.datasets) != 1 or options.datasets == [PHANTOMS]:
        problem, hint = "is evaluated on one data set", "name one image folder or CSV file"
        raise InputError("--head", problem, hint, code="input.mismatch")
    head = Head.read(options.head)
    dataset = read_data(Path(options.datasets[0]), options.recipe, options, console)
    split = tested_split(split_path(options.head), dataset, sha256(options.head))
    backbones = load_backbones(options.preset, weight_sources(options), options.device)
    tested = len(split.test)
    if options.skip_bad:
        split = _usable(split, dataset, head, backbones, console)
    left_out = tested - len(split.test)
    with _progress(console) as progress:
        store = FocusStore(options.cache, backbones)
        run, examples = evaluate_head(head, dataset, split, backbones, store, progress)
        explanations, pictures = evidence_of(dataset.name, head, examples, backbones)
    files = [file.file for file in split.test_files]
    atomic_write(options.report / "answers.csv", answers_csv(run, examples, files))
    title = f"{dataset.name}: {head.adaptation}, focus {head.focus}"
    page = write_report(options.report, title, [run], explanations, pictures, left_out=left_out)
    return [run], page


def _usable(
    split: Split, dataset: Dataset, head: Head, backbones: Backbones, report: Console
) -> Split:
    """A split without the test files that are unreadable, or that the head was trained on."""
    items = [dataset.items[index] for index in split.test]
    good = leave_out_unreadable(items, backbones.check, report)
    seen = set(head.trained_on)
    kept = []
    for file in split.test_files:
        frames = good.get(dataset.items[file.index])
        if frames is not None and seen.isdisjoint(frames):
            kept.append(file)
        elif frames is not None:
            report.print(f"left out: {printable(file.file)}: the head was trained on its image")
    if not kept:
        problem, hint = "has no image left to test on", "add images that the head does not know"
        raise InputError(dataset.name, problem, hint, code="split.too_few_files")
    return replace(split, test_files=tuple(kept))


def _grid(options: argparse.Namespace, console: Console) -> tuple[list[Run], Path]:
    """Run what is missing of the grid, and report on all of it."""
    grid = Grid(
        cast(tuple[FocusMode, ...], _listed(options.focus, FocusMode, "--focus")),
        cast(tuple[Adaptation, ...], _listed(options.adapt, Adaptation, "--adapt")),
        AMOUNTS,
        options.seeds,
        ("true", "random"),
    )
    datasets = _datasets(options, console)
    plan = StudyConfig(
        options.preset,
        weight_sources(options),
        choose_device(options.device),
        options.cache,
        datasets,
        options.steps,
    )
    worker = Worker(plan)
    left_out = worker.leave_out_bad(console) if options.skip_bad else 0
    with _progress(console) as progress:
        worker.read_all(progress)
        runs = run_grid(options.report, worker, grid, progress)
        explanations, pictures = study_evidence(worker, grid, progress)
    hits = hit_gains(runs, study_overlaps(worker, grid))
    title = "Few-shot: " + ", ".join(datasets)
    page = write_report(options.report, title, runs, explanations, pictures, hits, left_out)
    return runs, page


def _datasets(options: argparse.Namespace, console: Console) -> dict[str, Dataset]:
    if options.datasets == [PHANTOMS]:
        return phantom_datasets(options.report / PHANTOMS)
    recipes = options.recipe.split(",") if options.recipe else [None] * len(options.datasets)
    if len(recipes) != len(options.datasets):
        problem = "does not name one recipe per data set"
        hint = "separate them by commas, in the order of the data sets"
        raise InputError(f"--recipe {options.recipe}", problem, hint, code="input.mismatch")
    datasets = [
        read_data(Path(path), recipe, options, console)
        for path, recipe in zip(options.datasets, recipes, strict=True)
    ]
    named = {dataset.name: dataset for dataset in datasets}
    if len(named) != len(datasets):
        hint = "rename the folder or file of one of them"
        raise InputError("data sets", "two have the same name", hint, code="dataset.duplicate_name")
    return named


def _listed(text: str, names: object, flag: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in get_args(names):
            known = ", ".join(get_args(names))
            hint = f"use some of {known}"
            raise InputError(f"{flag} {name!r}", "is not known", hint, code="input.unknown_choice")
    return chosen


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
