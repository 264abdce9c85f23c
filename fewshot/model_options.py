"""The command-line options that say which models few-shot commands use."""

import argparse
from pathlib import Path

from medfocus.fewshot.backbones import WeightSources
from medfocus.fewshot.data.recipes import RECIPES
from medfocus.fewshot.focus_store import default_folder
from medfocus.models.presets import PRESETS


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of models and data that `medfocus-fit` and `medfocus-eval` share."""
    add = parser.add_argument_group("models and data").add_argument
    add("--preset", default="tiny", help=", ".join(PRESETS) + "; tiny's weights are shipped")
    add("--clip-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--sam2-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--text-folder", metavar="DIR", type=Path, help="of a Hugging Face text encoder")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--recipe", choices=RECIPES, help="the folder is this published data set")
    add("--skip-bad", action="store_true", help="leave out files that cannot be read, by name")
    add(
        "--cache",
        metavar="DIR",
        type=Path,
        default=default_folder(),
        help="keeps focus masks, named by hashes of pixels; default: %(default)s",
    )


def weight_sources(options: argparse.Namespace) -> WeightSources:
    """Where the weights are, as the options say."""
    return WeightSources(options.clip_weights, options.sam2_weights, options.text_folder)
