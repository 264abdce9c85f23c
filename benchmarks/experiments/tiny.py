"""What the shipped `tiny` weights can do, on phantoms that nothing was trained on.

    python -m medfocus.benchmarks.experiments.tiny FOLDER -o benchmarks/results/cpu/tiny.json

FOLDER has the demo's few labelled images. README, docs and tests take their numbers from the file.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, track

from medfocus.engine import Engine, Prediction
from medfocus.export.engine_directory import ModelBundle, build
from medfocus.fewshot.adapt.fit import Task, fit_head
from medfocus.fewshot.backbones import Backbones, load_backbones
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.evaluation.intervals import wilson
from medfocus.fewshot.examples import load_examples
from medfocus.fewshot.focus_store import FocusStore
from medfocus.files.atomic_write import atomic_write
from medfocus.models.clip.encoder import FocusCLIP
from medfocus.models.clip.text import class_prompt
from medfocus.models.head import Head
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.presets import preset
from medfocus.phantoms import DEMO_KINDS, ORGANS, PRETRAINING_KINDS, Phantom, make_phantom
from medfocus.settings import Focus, FocusMode, Selection

MEASURED_SEEDS = 20_000_000  # training, validation and demo have lower ones
PER_CLASS = 100
SEGMENTED = 300


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.experiments.tiny", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="the demo's few-shot image folder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    figures = measure(options.folder)
    atomic_write(options.out, json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def measure(folder: Path) -> dict[str, Any]:
    """Segmentation and classification figures of the tiny preset.

    Args:
        folder: few labelled images of the demo's kinds.
    """
    first, count = MEASURED_SEEDS, len(PRETRAINING_KINDS)
    shown = [
        make_phantom(first + n, ORGANS[n % 3], kind)
        for n, kind in enumerate(track(DEMO_KINDS * PER_CLASS, "drawing demo phantoms"))
    ]
    known = [
        make_phantom(first + 10_000 + n, ORGANS[n // count % 3], PRETRAINING_KINDS[n % count])
        for n in range(SEGMENTED)
    ]
    healthy = [
        make_phantom(first + 20_000 + n, ORGANS[n % 3], None, lesions=0) for n in range(SEGMENTED)
    ]
    figures: dict[str, Any] = {"classes": [kind.name for kind in DEMO_KINDS]}
    modes: tuple[FocusMode, ...] = ("soft", "none")
    backbones = load_backbones("tiny")
    for mode in modes:
        head = _few_shot(folder, mode, backbones)
        predictions = _classify(head, mode, shown)
        figures[f"few_shot_{mode}"] = _accuracy(predictions, shown)
        if mode == "soft":
            figures["segmentation_new_kinds"] = _overlap(predictions, shown)
            figures["segmentation_known_kinds"] = _overlap(_classify(head, mode, known), known)
            alarms = [prediction.focused for prediction in _classify(head, mode, healthy)]
            figures["segmentation_healthy"] = {"images": len(alarms), "focused": sum(alarms)}
        head = _zero_shot(mode, backbones)
        figures[f"zero_shot_{mode}"] = _accuracy(_classify(head, mode, shown), shown)
    return figures


def _few_shot(folder: Path, mode: FocusMode, backbones: Backbones) -> Head:
    """A linear probe on all images of a folder that are not to be tested on."""
    dataset = read_dataset(folder)
    items = [item for item in dataset.items if item.part != "test"]
    with tempfile.TemporaryDirectory() as place, Progress() as progress:
        examples = load_examples(items, backbones, FocusStore(Path(place), backbones), progress)
    task = Task(dataset.classes, dataset.prompts, Focus(mode=mode))
    return fit_head("probe", task, examples, backbones)


def _zero_shot(mode: FocusMode, backbones: Backbones) -> Head:
    """The head of the class prompts only; the classes in the order of their folders."""
    classes = sorted(kind.name for kind in DEMO_KINDS)
    prompts = [class_prompt(name) for name in classes]
    return backbones.zero_shot_head(classes, prompts, Focus(mode=mode))


def _classify(head: Head, mode: FocusMode, phantoms: list[Phantom]) -> list[Prediction]:
    """The predictions of an engine with this head and mode."""
    chosen = preset("tiny")
    loaded = load_clip(chosen.clip)
    segmenter, segmenter_sha256 = load_segmenter(chosen.sam2)
    models = (FocusCLIP(loaded.model.visual), loaded.sha256, segmenter, segmenter_sha256)
    bundle = ModelBundle(chosen, *models, head, Focus(mode=mode), Selection())
    with tempfile.TemporaryDirectory() as place:
        build(Path(place, "engine"), bundle)
        engine = Engine.load(Path(place, "engine"))
    return engine.classify([phantom.image for phantom in phantoms], strict=True)


def _accuracy(predictions: list[Prediction], phantoms: list[Phantom]) -> dict[str, Any]:
    """Share of right labels, with Wilson's 95% interval."""
    right = [
        phantom.kind is not None and prediction.label == phantom.kind.name
        for prediction, phantom in zip(predictions, phantoms, strict=True)
    ]
    _, low, high = wilson(sum(right), len(right))
    return {
        "images": len(right),
        "right": sum(right),
        "accuracy": round(sum(right) / len(right), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def _overlap(predictions: list[Prediction], phantoms: list[Phantom]) -> dict[str, Any]:
    """IoU of the focus mask with the lesion at the image's own resolution; 0 where none is."""
    by_organ: dict[str, list[float]] = {organ: [] for organ in ORGANS}
    for prediction, phantom in zip(predictions, phantoms, strict=True):
        mask = prediction.focus_mask
        assert mask is not None
        union = (mask | phantom.mask).sum()
        by_organ[phantom.organ].append(float((mask & phantom.mask).sum() / union))
    everything = [value for values in by_organ.values() for value in values]
    return {
        "images": len(everything),
        "mean_iou": round(float(np.mean(everything)), 4),
        "found": round(float(np.mean(np.array(everything) > 0.5)), 4),
        **{organ: round(float(np.mean(values)), 4) for organ, values in by_organ.items()},
    }


if __name__ == "__main__":
    main()
