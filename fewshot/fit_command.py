"""`medfocus fit`: labelled images to a head that `medfocus export --head` builds into an engine.

Exit codes: 0 success; 2 wrong usage, or too few images; 4 input or output error; 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from medfocus.command_line import command_parser, noting, run, whole_number
from medfocus.exit_codes import ExitCode
from medfocus.fewshot.adapt.names import Adaptation
from medfocus.fewshot.model_options import MAX_SEED, add_model_options
from medfocus.settings import FocusMode
from medfocus.terminal import printable


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("fit", parser(), _fit, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "fit",
        "Adapt to a task with few labelled images: write a head, and which files it was trained"
        " on.",
        """
medfocus fit scans/ --shots 16 -o head.safetensors
medfocus fit scans.csv --fraction 0.1 --adapt lora --seed 3 -o head.safetensors
""",
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        type=Path,
        help="folder of FOLDER/<class>/<image> or FOLDER/{train,test}/<class>/<image>, or CSV file"
        " with columns path and label, and as known group (patient), split and mask",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="head to write, .safetensors; its split is written next to it (required)",
    )
    training = parser.add_argument_group("training")
    amount = training.add_mutually_exclusive_group(required=True)
    amount.add_argument(
        "--shots",
        metavar="K",
        type=whole_number(1),
        help="train on K files per class (this or --fraction is required)",
    )
    amount.add_argument(
        "--fraction",
        metavar="F",
        type=float,
        help="train on this share of each class, in (0, 1]; 1 is everything but the test part:"
        " the data set's own, or a fifth (this or --shots is required)",
    )
    add = training.add_argument
    add(
        "--adapt",
        choices=get_args(Adaptation),
        default="probe",
        help="what is trained: nothing, a linear probe, a Tip-Adapter, visual prompts, LoRA or all"
        " of CLIP (default: probe)",
    )
    add(
        "--focus",
        choices=get_args(FocusMode),
        default="soft",
        help="how the focus mask steers CLIP: none ignores it, overlay paints it over the image,"
        " soft biases attention, hard hides everything else (default: soft)",
    )
    add(
        "--seed",
        metavar="S",
        type=whole_number(0, MAX_SEED),
        default=0,
        help="of the choice of files and of the training (default: 0)",
    )
    add_model_options(parser)
    return parser


def _fit(options: argparse.Namespace, console: Console) -> int:
    with noting("no head was written; segmented images are kept in the cache", KeyboardInterrupt):
        from medfocus.fewshot.fit_run import fit_and_save  # needs torch; --help does not

        head, split_file = fit_and_save(options, console)
    classes = printable(", ".join(head.classes))
    print(f"{options.out}: {head.adaptation}, focus {head.focus}, a head for {classes}")
    print(f"{split_file}: the files it was trained on, and those to test it on")
    return ExitCode.OK
