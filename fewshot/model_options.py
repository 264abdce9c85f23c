"""The command-line options that few-shot commands share: models, weights and data."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medfocus.command_line import whole_number
from medfocus.fewshot.adapt.names import STEPS
from medfocus.files.user_folders import cache_folder
from medfocus.models.options import add_weight_options
from medfocus.terminal import printable

if TYPE_CHECKING:  # the modules import torch, which --help does not need
    from rich.console import Console

    from medfocus.fewshot.backbones import WeightSources
    from medfocus.fewshot.data.dataset import Dataset

PHANTOMS = "phantoms"  # in place of a data set: four sets of synthetic images
MAX_SEED = 2**32 - 1  # numpy's


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of models, training and data that fit and eval share."""
    add = add_weight_options(parser).add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes CUDA if there is a GPU, otherwise the CPU (default: auto)",
    )
    add(
        "--steps",
        metavar="N",
        type=whole_number(1),
        default=STEPS,
        help="optimiser steps of vpt, lora and full, of 16 images each (default: %(default)s)",
    )
    add = parser.add_argument_group("data").add_argument
    add(
        "--recipe",
        metavar="NAME",
        help="read the folder as this published data set: covid, lung, brain or breast; for"
        " several data sets, one per data set, separated by commas (default:"
        " FOLDER/<class>/<image>)",
    )
    add(
        "--classes",
        metavar="FILE",
        type=Path,
        help="all class names, one name per line; others are refused (default: those in the data)",
    )
    add(
        "--allow-outside",
        action="store_true",
        help="read files that a CSV file names outside its folder (default: refuse the CSV file)",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="leave out, and list by name, unreadable files, files with two labels and, also where"
        " only the pixels are the same, training copies of test files; in an evaluation also test"
        " images that the head was trained on (default: refuse the data set)",
    )
    add(
        "--cache",
        metavar="DIR",
        type=Path,
        default=cache_folder() / "focus",
        help="folder that keeps focus masks, named by hashes of pixels (default: %(default)s)",
    )


def read_data(
    path: Path, recipe: str | None, options: argparse.Namespace, report: "Console"
) -> "Dataset":
    """A data set as the options say; its notes are printed.

    Raises:
        FileError: it is missing or unreadable.
        InputError: it is not a data set, or has other classes than those listed.
    """
    from medfocus.fewshot.data.class_list import with_classes
    from medfocus.fewshot.data.reader import read_dataset
    from medfocus.models.clip.class_names import read_classes

    dataset = read_dataset(path, recipe, options.allow_outside)
    for note in dataset.notes:
        report.print(printable(f"{dataset.name}: {note}"))
    if options.classes is None:
        return dataset
    return with_classes(dataset, read_classes(options.classes))


def weight_sources(options: argparse.Namespace) -> "WeightSources":
    """Where the weights are, as the options say."""
    from medfocus.fewshot.backbones import WeightSources

    return WeightSources(options.clip_weights, options.sam2_weights, options.text_folder)
