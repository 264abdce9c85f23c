"""Train one half of the `tiny` preset.

    python -m tools.pretrain segmenter -o OUT
    python -m tools.pretrain clip -o OUT

The defaults are those of the shipped weights; docs/tiny.md holds the curves.
"""

import argparse
from pathlib import Path

import torch

from tools.pretrain.clip import train_clip
from tools.pretrain.segmenter import train_segmenter


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain", description=__doc__)
    parser.add_argument("part", choices=("segmenter", "clip"))
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for weights and curve"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--pool", type=int, default=9000, help="phantoms to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--measure-every", type=int, default=200, help="steps")
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
