"""`medfocus-fit`: labelled images to a head that `medfocus-export --head` builds into an engine.

medfocus-fit scans/ --shots 16 --adapt lora -o head.safetensors
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import Progress

from medfocus.engine.io.results import printable
from medfocus.errors import InputError, MedfocusError
from medfocus.fewshot.adapt.fit import STEPS, Adaptation, Task, fit_head
from medfocus.fewshot.backbones import load_backbones
from medfocus.fewshot.data.images import leave_out_bad
from medfocus.fewshot.data.splitting.splits import Fraction, Shots, Split, make_split
from medfocus.fewshot.examples import load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.fewshot.model_options import add_model_options, read_data, weight_sources, whole
from medfocus.models.head import Head
from medfocus.settings import Focus, FocusMode

OK, UNUSABLE, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 2 where nothing was written, for whatever reason; 130 for Ctrl-C.
    """
    options = _parser().parse_args(argv)
    report = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        head, split = _fit(options, report)
        head.save(options.out)
        split.save(split_path(options.out))
    except MedfocusError as error:
        report.print(f"error: {printable(str(error))}")
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted; no head was written. Segmented images are kept")
        return INTERRUPTED
    classes = printable(", ".join(head.classes))
    print(f"{options.out}: {head.adaptation}, focus {head.focus}, a head for {classes}")
    print(f"{split_path(options.out)}: what it learned from, and what to test it on")
    return OK


def split_path(head: Path) -> Path:
    """Where the split of a head file lies."""
    return head.with_suffix(".split.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medfocus-fit",
        description="Adapt to a task with few labelled images: FOLDER/<class>/<image>,"
        " FOLDER/{train,test}/<class>/<image>, or a CSV with columns path, label and, as known,"
        " group (patient), split and mask.",
    )
    add = parser.add_argument
    add("dataset", metavar="DATASET", type=Path, help="an image folder or a CSV file")
    add("-o", "--out", metavar="FILE", type=Path, required=True, help="the head, .safetensors")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--shots", metavar="K", type=int, help="learn from K files a class")
    amount.add_argument(
        "--fraction",
        metavar="F",
        type=float,
        help="learn from this share of each class; 1 is all but the test part, which is the data"
        " set's own or a fifth",
    )
    add("--adapt", choices=get_args(Adaptation), default="probe", help="default: %(default)s")
    add("--focus", choices=get_args(FocusMode), default="soft", help="default: %(default)s")
    add("--seed", metavar="S", type=whole(0), default=0, help="of which files, and of the training")
    add(
        "--steps",
        metavar="N",
        type=whole(1),
        default=STEPS,
        help="of 16 images, in vpt, lora and full; default: %(default)s",
    )
    add_model_options(parser)
    return parser


def _fit(options: argparse.Namespace, report: Console) -> tuple[Head, Split]:
    if options.out.suffix != ".safetensors" or options.out.is_dir():
        raise InputError(str(options.out), "is no name of a head file", "end it in .safetensors")
    dataset = read_data(options.dataset, options.recipe, options.classes)
    amount = Fraction(options.fraction) if options.shots is None else Shots(options.shots)
    backbones = load_backbones(options.preset, weight_sources(options), options.device)
    if options.skip_bad:
        dataset = leave_out_bad(dataset, backbones.check, report)
    split = make_split(dataset, amount, options.seed)
    store = FocusStore(options.cache, backbones)
    task = Task(dataset.classes, dataset.prompts, Focus(mode=options.focus))
    with Progress(console=report) as progress:
        items = [dataset.items[index] for index in split.train]
        examples = load_examples(items, backbones, store, progress)
        progress.add_task(f"adapting ({options.adapt})", total=None)
        head = fit_head(options.adapt, task, examples, backbones, options.seed, options.steps)
    return head, split
