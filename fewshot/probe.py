"""The text-initialised linear probe: class embeddings moved from the text towards the images.

python -m medfocus.fewshot.probe IMAGE_FOLDER -o head.safetensors
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medfocus.errors import MedfocusError
from medfocus.fewshot.features import embed
from medfocus.fewshot.folder import read_folder
from medfocus.models.clip import FocusCLIP
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, PRESETS, ZERO_SHOT, preset
from medfocus.models.text import class_embeddings
from medfocus.settings import Focus, FocusMode, Selection

TEXT_PULL = 1.0  # weight of the distance to the text embeddings; no validation set chooses it
ITERATIONS = 100  # L-BFGS steps; the objective is convex up to the normalisation, and small


def fit_probe(
    features: Tensor, labels: Tensor, text: Tensor, logit_scale: Tensor, pull: float = TEXT_PULL
) -> Tensor:
    """Class embeddings that minimise cross-entropy + pull · |W - text|² / C.

    Starting from, and staying near, the text needs no validation set (as CLAP, arXiv 2312.12730,
    and LP++, arXiv 2404.02285, argue).

    Args:
        features: (N, E) of length 1; labels: (N,) int64 in [0, C).
        text: (C, E) class embeddings of the prompts, of length 1.
        logit_scale: () CLIP's factor on the cosine.
        pull: how strongly the text holds.

    Returns:
        (C, E) of length 1.
    """
    weights = text.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = logit_scale * features @ F.normalize(weights, dim=-1).T
        loss = F.cross_entropy(logits, labels)
        loss = loss + pull * (weights - text).square().sum(1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return F.normalize(weights.detach(), dim=-1)


@dataclass(frozen=True)
class WeightSources:
    """Where a preset's weights come from; None takes what is shipped.

    Attributes:
        clip, sam2: a file, or owner/name@<commit>:<file>.
        text_folder: of a Hugging Face text encoder.
    """

    clip: str | None = None
    sam2: str | None = None
    text_folder: Path | None = None


def fit_head(
    folder: Path, preset_name: str, focus: Focus, weights: WeightSources = WeightSources()
) -> Head:
    """A head for an image folder: its classes, and class embeddings fitted to its images.

    Raises:
        MedfocusError: a folder, image or weight file that cannot be used.
    """
    classes, labelled = read_folder(folder)
    chosen = preset(preset_name)
    loaded = load_clip(chosen.clip, weights.clip, weights.text_folder)
    segmenter, _ = load_segmenter(chosen.sam2, weights.sam2)
    text = class_embeddings(loaded.model, loaded.tokenize, classes)
    scale = loaded.logit_scale
    clip = FocusCLIP(loaded.model.visual)
    strength = uniform_strength(clip.layers)
    classifier = ClassifierGraph(clip, focus, text, scale, strength, CLIP_MEAN, CLIP_STD)
    features, labels = embed(
        labelled,
        SegmenterGraph(segmenter, Selection()).eval(),
        classifier.eval(),
        chosen.preprocessing(clip, segmenter),
        ZERO_SHOT,
    )
    embeddings = fit_probe(features, labels, text, scale)
    return Head(chosen.clip, loaded.sha256, focus.mode, classes, embeddings, scale, strength)


def main() -> int:
    """Read the command line, fit, save."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.fewshot.probe", description=__doc__)
    parser.add_argument("folder", type=Path, help="FOLDER/<class>/<image>")
    parser.add_argument("-o", "--out", type=Path, required=True, help="head file to write")
    parser.add_argument("--preset", default="tiny", help=", ".join(PRESETS))
    parser.add_argument("--focus", choices=get_args(FocusMode), default="soft")
    parser.add_argument("--clip-weights", help="file or owner/name@<commit>:<file>")
    parser.add_argument("--text-folder", type=Path, help="of a Hugging Face text encoder")
    parser.add_argument("--sam2-weights", help="file or owner/name@<commit>:<file>")
    options = parser.parse_args()
    try:
        head = fit_head(
            options.folder,
            options.preset,
            Focus(mode=options.focus),
            WeightSources(options.clip_weights, options.sam2_weights, options.text_folder),
        )
        head.save(options.out)
    except MedfocusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: a head for {', '.join(head.classes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
