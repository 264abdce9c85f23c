"""Train one of the two models of the `tiny` preset.

    python -m tools.pretrain segmenter -o OUT
    python -m tools.pretrain clip -o OUT

The defaults are those of the shipped weights; docs/tiny.md shows the training curves.
"""

import argparse
from pathlib import Path

import torch

from tools.pretrain.clip import train_clip
from tools.pretrain.segmenter import train_segmenter


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("segmenter", "clip"), help="the model to train")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for the weights and the curve"
    )
    parser.add_argument(
        "--steps", type=int, help="optimiser steps; default: 2800 (segmenter), 3600 (clip)"
    )
    parser.add_argument(
        "--batch", type=int, help="images per step; default: 16 (segmenter), 64 (clip)"
    )
    parser.add_argument(
        "--pool", type=int, default=9000, help="training phantoms; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; default: %(default)s")
    parser.add_argument(
        "--measure-every",
        metavar="STEPS",
        type=int,
        default=200,
        help="steps between evaluations; default: %(default)s",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, steps, batch = {
        "segmenter": (train_segmenter, 2800, 16),
        "clip": (train_clip, 3600, 64),
    }[options.part]
    train(
        options.out,
        options.steps or steps,
        options.batch or batch,
        options.pool,
        options.seed,
        options.measure_every,
    )


if __name__ == "__main__":
    main()
