"""Runs a fit once its command line is parsed: data, split, training, files."""

import argparse
from hashlib import sha256
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from medfocus.errors import InputError
from medfocus.fewshot.adapt.fit import Task, fit_head
from medfocus.fewshot.backbones import load_backbones
from medfocus.fewshot.data.images import leave_out_bad
from medfocus.fewshot.data.splitting.splits import Fraction, Shots, Split, make_split
from medfocus.fewshot.examples import load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.model_options import read_data, weight_sources
from medfocus.files.atomic_write import atomic_write_all
from medfocus.models.head import Head
from medfocus.settings import Focus


def fit_and_save(options: argparse.Namespace, console: Console) -> tuple[Head, Path]:
    """Fit a head, and write it and its split.

    Returns:
        The head, and the path of its split.

    Raises:
        MedfocusError: what reading the data, loading the weights and fitting raise.
    """
    head, split = _fit(options, console)
    content, path = head.to_bytes(), split_path(options.out)
    # The head last: a head without its split would be tested on whatever data it is given.
    atomic_write_all({path: split.to_json(sha256(content).hexdigest()), options.out: content})
    return head, path


def split_path(head: Path) -> Path:
    """The path of a head file's split."""
    return head.with_suffix(".split.json")


def _fit(options: argparse.Namespace, console: Console) -> tuple[Head, Split]:
    if options.out.suffix != ".safetensors" or options.out.is_dir():
        raise InputError(
            str(options.out),
            "is not the name of a head file",
            "end it in .safetensors",
            code="input.output_format",
        )
    dataset = read_data(options.dataset, options.recipe, options, console)
    amount = Fraction(options.fraction) if options.shots is None else Shots(options.shots)
    backbones = load_backbones(options.preset, weight_sources(options), options.device)
    if options.skip_bad:
        dataset = leave_out_bad(dataset, backbones.check, console)
    split = make_split(dataset, amount, options.seed)
    store = FocusStore(options.cache, backbones)
    task = Task(dataset.classes, dataset.prompts, Focus(mode=options.focus))
    with Progress(console=console) as progress:
        items = [dataset.items[index] for index in split.train]
        examples = load_examples(items, backbones, store, progress)
        progress.add_task(f"adapting ({options.adapt})", total=None)
        head = fit_head(options.adapt, task, examples, backbones, options.seed, options.steps)
    return head, split
