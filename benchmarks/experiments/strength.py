"""How hard the focus should pull: zero-shot accuracy of `tiny` against mode, strength and layers.

    python -m medfocus.benchmarks.experiments.strength -o benchmarks/results/cpu/strength.json

Measured on validation phantoms of the kinds that training saw, which no other figure uses; the
default strength (`models/head.py`) was chosen here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from medfocus.engine.io.images import SourceImage
from medfocus.engine.preprocess.batch import Batch, collate, prepare
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.clip.text import class_embeddings
from medfocus.models.graphs import ClassifierGraph, SegmenterGraph
from medfocus.models.loading import LoadedClip, load_clip, load_segmenter
from medfocus.models.presets import CLIP_MEAN, CLIP_STD, ZERO_SHOT, preset
from medfocus.phantoms import ORGANS, PRETRAINING_KINDS, Phantom, make_phantom
from medfocus.settings import Focus, Selection

VALIDATION_SEEDS = 30_000_000
PER_KIND = 30
BATCH = 30


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.experiments.strength")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = measure()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


@torch.no_grad()
def measure() -> list[dict[str, Any]]:
    """One row a setting: mode, masks, strength of each layer, images, right, accuracy."""
    chosen = preset("tiny")
    loaded = load_clip(chosen.clip)
    segmenter, _ = load_segmenter(chosen.sam2)
    clip = FocusCLIP(loaded.model.visual).eval()
    phantoms = [
        make_phantom(VALIDATION_SEEDS + number, ORGANS[number % 3], kind)
        for number, kind in enumerate(kind for kind in PRETRAINING_KINDS for _ in range(PER_KIND))
    ]
    preprocessing = chosen.preprocessing(clip, segmenter)
    prepared = [
        prepare(SourceImage(phantom.image, ""), preprocessing, Focus(), ZERO_SHOT)
        for phantom in phantoms
    ]
    batches = [
        collate(prepared[start : start + BATCH], preprocessing)
        for start in range(0, len(prepared), BATCH)
    ]
    graph = SegmenterGraph(segmenter, Selection()).eval()
    found = [
        graph(*map(torch.from_numpy, (batch.segmenter, batch.points, batch.labels))).focus_logits
        for batch in track(batches, "segmenting")
    ]
    true = [
        _true_focus(phantoms[start : start + BATCH]) for start in range(0, len(phantoms), BATCH)
    ]
    layers = clip.layers
    uniform = [[value] * layers for value in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)]
    late = [[0.0] * (layers - last) + [1.0] * last for last in (1, 2, 3)]
    early = [[1.0] * 3 + [0.0] * (layers - 3)]
    one = [1.0] * layers
    settings = [
        ("none", "none", one),
        *(("soft", "found", strength) for strength in (*uniform, *late, *early)),
        *(("soft", "true", [value] * layers) for value in (0.2, 1.0)),
        ("hard", "found", one),
        ("hard", "true", one),
    ]
    rows = []
    for mode, masks, strength in track(settings, "classifying"):
        focus = Focus(mode=mode)  # type: ignore[arg-type]
        logits = true if masks == "true" else found
        right = _right(loaded, clip, focus, torch.tensor(strength), batches, logits, phantoms)
        rows.append(
            {
                "mode": mode,
                "masks": masks,
                "strength": strength,
                "images": len(phantoms),
                "right": right,
                "accuracy": round(right / len(phantoms), 4),
            }
        )
    return rows


def _right(
    loaded: LoadedClip,
    clip: FocusCLIP,
    focus: Focus,
    strength: Tensor,
    batches: list[Batch],
    logits: list[Tensor],
    phantoms: list[Phantom],
) -> int:
    names = [kind.name for kind in PRETRAINING_KINDS]
    text = class_embeddings(loaded.model, loaded.tokenize, names)
    graph = ClassifierGraph(
        clip, focus, text, loaded.logit_scale, strength, CLIP_MEAN, CLIP_STD
    ).eval()
    labels = []
    for batch, focus_logits in zip(batches, logits, strict=True):
        image, rows, cols = map(torch.from_numpy, (batch.classifier, batch.rows, batch.cols))
        labels += graph(image, focus_logits, rows, cols).probabilities.argmax(1).tolist()
    truth = [phantom.kind for phantom in phantoms]
    return sum(PRETRAINING_KINDS[label] == kind for label, kind in zip(labels, truth, strict=True))


def _true_focus(phantoms: list[Phantom], size: int = 64) -> Tensor:
    """The lesions' own masks as focus logits (B, h, w), as an ideal segmenter would give them."""
    masks = torch.from_numpy(np.stack([phantom.mask for phantom in phantoms])).float()
    return 40 * (F.adaptive_avg_pool2d(masks[:, None], size)[:, 0] - 0.5)


if __name__ == "__main__":
    main()
