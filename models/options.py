"""The command-line options that name models and weights, for every command that loads them.

No torch is imported here: `--help` must not wait for it.
"""

import argparse
from pathlib import Path

_WEIGHTS = (
    "a file, or owner/name@COMMIT:FILE on the Hugging Face hub (default: the shipped weights,"
    " only for tiny)"
)


def add_weight_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add a preset and its weights.

    Returns:
        The group of options, for what else a command has to say of its models.
    """
    group = parser.add_argument_group("models")
    add = group.add_argument
    add(
        "--preset",
        metavar="NAME",
        default="tiny",
        help="CLIP and SAM2 architectures: tiny, whose weights are shipped, base, large or biomed"
        " (default: tiny)",
    )
    add("--clip-weights", metavar="FILE", help=f"CLIP weights: {_WEIGHTS}")
    add("--sam2-weights", metavar="FILE", help=f"SAM2 weights: {_WEIGHTS}")
    add(
        "--text-folder",
        metavar="DIR",
        type=Path,
        help="folder of a Hugging Face text encoder's configuration and vocabulary, for biomed"
        " (default: none)",
    )
    return group
