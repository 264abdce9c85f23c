"""The command-line options that few-shot commands share: models, weights and data."""

import argparse
from collections.abc import Callable
from pathlib import Path

from medfocus.fewshot.backbones import WeightSources
from medfocus.fewshot.data.class_list import with_classes
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.data.recipes import RECIPES
from medfocus.fewshot.focus_store import default_folder
from medfocus.models.clip.text import read_classes
from medfocus.models.presets import PRESETS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of models and data that `medfocus-fit` and `medfocus-eval` share."""
    add = parser.add_argument_group("models and data").add_argument
    add("--preset", default="tiny", help=", ".join(PRESETS) + "; tiny's weights are shipped")
    add("--clip-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--sam2-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--text-folder", metavar="DIR", type=Path, help="of a Hugging Face text encoder")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    recipes = ", ".join(RECIPES)
    add("--recipe", metavar="R", help=f"the folder is this published data set: {recipes}")
    add("--classes", metavar="FILE", type=Path, help="all class names, a line each")
    add(
        "--skip-bad",
        action="store_true",
        help="leave out, by name, unreadable files, training copies of test files and files with"
        " two labels",
    )
    add(
        "--cache",
        metavar="DIR",
        type=Path,
        default=default_folder(),
        help="keeps focus masks, named by hashes of pixels; default: %(default)s",
    )


def read_data(path: Path, recipe: str | None, classes: Path | None) -> Dataset:
    """A data set as the options say.

    Raises:
        InputError: what cannot be read as one, or has other classes than listed.
    """
    dataset = read_dataset(path, recipe)
    return dataset if classes is None else with_classes(dataset, read_classes(classes))


def whole(least: int, most: int = 2**32 - 1) -> Callable[[str], int]:
    """A `type` of argparse: a whole number from `least` to `most`, as numpy's seeds go."""

    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return number


def weight_sources(options: argparse.Namespace) -> WeightSources:
    """Where the weights are, as the options say."""
    return WeightSources(options.clip_weights, options.sam2_weights, options.text_folder)
