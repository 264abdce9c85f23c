"""Writes phantoms as one folder of images per class: `python -m medfocus.phantoms OUT_DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medfocus.errors import MedfocusError
from medfocus.phantoms.catalogue import DEMO_KINDS, FEWSHOT_KINDS, PRETRAINING_KINDS
from medfocus.phantoms.image_folder import write_image_folder

_KINDS = {"demo": DEMO_KINDS, "pretraining": PRETRAINING_KINDS, "few-shot": FEWSHOT_KINDS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; None takes the process's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.phantoms",
        description="Write synthetic slices as OUT_DIR/<class>/<organ>-<number>.png.",
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="a new or empty folder")
    add = parser.add_argument
    add("--kinds", choices=_KINDS, default="demo", help="lesion classes (default: %(default)s)")
    add(
        "--per-class",
        type=int,
        default=16,
        metavar="N",
        help="images per class (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="each seed gives different images (default: %(default)s)",
    )
    add("--masks", type=Path, metavar="DIR", help="also write the lesions' masks to DIR")
    options = parser.parse_args(arguments)
    try:
        write_image_folder(
            options.out_dir, _KINDS[options.kinds], options.per_class, options.seed, options.masks
        )
    except MedfocusError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
