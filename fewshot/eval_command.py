"""`medfocus eval`: how good a head is, or all adaptations compared, with intervals.

Exit codes: 0 success; 2 wrong usage; 4 input or output error; 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from medfocus.command_line import command_parser, noting, run, whole_number
from medfocus.exit_codes import ExitCode
from medfocus.fewshot.adapt.names import Adaptation
from medfocus.fewshot.model_options import PHANTOMS, add_model_options
from medfocus.settings import FocusMode

PIPED_WIDTH = 130  # characters; wide enough for every column


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("eval", parser(), _eval, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "eval",
        "Evaluate a head on images that it was not trained on, or compare adaptations and focus"
        " modes, and write a report.",
        """
medfocus eval scans/ --head head.safetensors
medfocus eval scans/ --grid --report report/
medfocus eval phantoms --grid --report report/      an hour on two cores
""",
    )
    parser.add_argument(
        "datasets",
        metavar="DATASET",
        nargs="+",
        help="image folder or CSV file, as for medfocus fit; or"
        f" {PHANTOMS}: four data sets of synthetic images",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument(
        "--head",
        metavar="FILE",
        type=Path,
        help="evaluate this head, from medfocus fit: on the test part of its own data, or on all"
        " of another data set (this or --grid is required)",
    )
    task.add_argument(
        "--grid",
        action="store_true",
        help="fit and evaluate all adaptations and focus modes; an interrupted grid resumes when"
        " the same command is run again (this or --head is required)",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        default=Path("report"),
        help="folder for the report and its tables (default: %(default)s)",
    )
    parser.add_argument(
        "--protocol",
        choices=("paper",),
        help="also show the accuracies that the paper, arXiv 2501.03839, reports (default: off)",
    )
    add = parser.add_argument_group("grid").add_argument
    add(
        "--adapt",
        metavar="LIST",
        default="zero-shot,probe,lora",
        help=f"adaptations, separated by commas, of {', '.join(get_args(Adaptation))}"
        " (default: %(default)s)",
    )
    add(
        "--focus",
        metavar="LIST",
        default=",".join(get_args(FocusMode)),
        help="focus modes, separated by commas (default: %(default)s)",
    )
    add(
        "--seeds",
        metavar="N",
        type=whole_number(1),
        default=5,
        help="number of seeds, each with its own choice of training files (default: %(default)s)",
    )
    add_model_options(parser)
    return parser


def _eval(options: argparse.Namespace, console: Console) -> int:
    with noting("to resume, run the same command again", KeyboardInterrupt):
        from medfocus.fewshot.eval_run import evaluate  # needs torch; --help does not

        tables, page = evaluate(options, console)
    output = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for table in tables:
        output.print(table)
    console.print(f"{page}: the report")
    return ExitCode.OK
