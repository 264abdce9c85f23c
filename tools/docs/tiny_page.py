"""Writes docs/tiny.md from the training logs and the measured figures, so that no number is typed.

    python -m tools.docs.tiny_page benchmarks/results/cpu -o docs/tiny.md

The folder holds tiny.json and strength.json, and strength_unsteered.json, which
`benchmarks.strength` wrote for weights from before the CLIP met steering.
"""

import json
from typing import Any

from medfocus.models.head import DEFAULT_STRENGTH
from medfocus.models.loading import SHIPPED
from medfocus.models.presets import preset
from medfocus.phantoms import PRETRAINING_KINDS
from tools.docs.page import write_page

RESULTS = ("tiny", "strength", "strength_unsteered")

TEXT = """# The `tiny` preset

Small models of the same classes as the big presets: SAM2's image path (`medfocus_tiny` in
`models/architectures.py`) and an open_clip CLIP, trained from nothing on phantoms, which are
synthetic brain-MRI-like, chest-X-ray-like and breast-ultrasound-like slices drawn by
`fewshot/phantoms/`. They exist so that everything runs offline, in tests and in the demo. **They
know phantoms and nothing else: their answers on real images mean nothing.**

A phantom's lesion has a margin (smooth, lobulated, spiculated, hazy) and an interior (solid,
hollow, speckled, septated, layered, target). Of the 24 kinds 18 are for pre-training; the demo's
four ({classes}) are among the six that training never saw.

The segmenter learned to answer any prompt with the lesion nearest to it: a point anywhere, or a
box. So the zero-shot prompts, nine points on a 3×3 grid, find it without a hint. The CLIP learned
from captions on close-ups and on whole slices. In {steered:.0%} of its steps the true mask of the
lesion steered it, in one of the focus modes, and in `soft` with a strength between 0 and 1: large
CLIPs, which have met a web of images, bear paint and missing patches; a small one has to meet them.

## How they were trained

`make weights`, on two CPU cores; seeded.

| | segmenter | CLIP |
|---|---:|---:|
| phantoms | {segmenter[pool]} | {clip[pool]} |
| optimiser steps | {segmenter[steps]} | {clip[steps]} |
| images a step | {segmenter[batch]} | {clip[batch]} |
| peak learning rate | {segmenter[rate]} | {clip[rate]} |
| seed | {segmenter[seed]} | {clip[seed]} |

AdamW, linear warm-up, cosine decay; the weights shipped are a moving average, in float16. The
curves, on 300 phantoms that training did not see (segmenter: IoU with the lesion from the
zero-shot prompts, and how often a healthy phantom got a focus; CLIP: zero-shot accuracy on whole
slices, without focus):

{segmenter_curve}

{clip_curve}

## What they can do

Measured by `python -m medfocus.benchmarks.experiments.tiny` on phantoms of other seeds than any training,
validation or demo image; 95% intervals are Wilson's.

| focus mask against lesion | images | mean IoU | IoU above 0.5 | brain | lung | breast |
|---|---:|---:|---:|---:|---:|---:|
{segmentation}

Of {healthy[images]} healthy phantoms {healthy[focused]} were given a focus all the same.

| the demo's four kinds (chance: 25%) | focus | images | accuracy | 95% interval |
|---|---|---:|---:|---:|
{classification}

Few-shot: the linear probe of `fewshot/adapt/probe.py` on 16 images a class. Each row has a head of
its own, fitted with its own focus mode.

## How hard the focus should pull

Measured by `python -m medfocus.benchmarks.experiments.strength`, zero-shot over the {strength_kinds} kinds of
pre-training, on {strength_images} validation phantoms that no other figure uses: a lesion each, and
nothing that misleads, so that plain CLIP finds it too (docs/method.md has phantoms that mislead).
`tiny`'s strength, {default:g} in every layer, was chosen here. The last column is of earlier
weights, whose CLIP never met a steered attention while it was trained. There full strength in every
layer does harm, and full strength in the first three alone does nearly as much, while in the last
two it helps: early layers need the patches around the region, and `hard`, which hides those
altogether, does worse still. The true masks change little: it is not the segmentation. So the other
presets start from {careful:g}; what larger CLIPs bear is not measured.

| mode | masks | λ of layers 1 to {layers} | accuracy | never steered |
|---|---|---|---:|---:|
{strength}
"""


def render(results: dict[str, Any]) -> str:
    """The page, from the results by name; the training logs lie beside the shipped weights."""
    figures, strength = results["tiny"], results["strength"]
    unsteered = {_setting(row): row["accuracy"] for row in results["strength_unsteered"]}
    logs = {
        part: json.loads((SHIPPED / f"{part}.json").read_text()) for part in ("segmenter", "clip")
    }
    return TEXT.format(
        classes=", ".join(figures["classes"]),
        steered=1 - logs["clip"]["settings"]["focus"]["none"],
        segmenter=logs["segmenter"]["settings"],
        clip=logs["clip"]["settings"],
        segmenter_curve=_curve(logs["segmenter"]["curve"]),
        clip_curve=_curve(logs["clip"]["curve"]),
        segmentation="\n".join(
            _segmentation(name, figures[key])
            for name, key in (
                ("kinds seen in training", "segmentation_known_kinds"),
                ("the demo's kinds, never seen", "segmentation_new_kinds"),
            )
        ),
        healthy=figures["segmentation_healthy"],
        classification="\n".join(
            _classification(name, mode, figures[f"{key}_{mode}"])
            for name, key in (("16 images a class", "few_shot"), ("zero-shot", "zero_shot"))
            for mode in ("soft", "none")
        ),
        strength_kinds=len(PRETRAINING_KINDS),
        strength_images=strength[0]["images"],
        default=preset("tiny").strength,
        careful=DEFAULT_STRENGTH,
        layers=len(strength[0]["strength"]),
        strength="\n".join(_strength(row, unsteered.get(_setting(row))) for row in strength),
    )


def _curve(rows: list[dict[str, float]]) -> str:
    names = list(rows[0])
    head = [" | ".join(name.replace("_", " ") for name in names), "|".join(["---:"] * len(names))]
    body = [" | ".join(f"{row[name]:g}" for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in (*head, *body))


def _segmentation(name: str, row: dict[str, Any]) -> str:
    organs = " | ".join(f"{row[organ]:.2f}" for organ in ("brain", "lung", "breast"))
    return f"| {name} | {row['images']} | {row['mean_iou']:.3f} | {row['found']:.1%} | {organs} |"


def _classification(name: str, mode: str, row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return (
        f"| {name} | {mode} | {row['images']} | {row['accuracy']:.1%} | {low:.1%} to {high:.1%} |"
    )


def _setting(row: dict[str, Any]) -> tuple[str, str, tuple[float, ...]]:
    return row["mode"], row["masks"], tuple(row["strength"])


def _strength(row: dict[str, Any], unsteered: float | None) -> str:
    steered = row["mode"] == "soft"
    masks = row["masks"] if row["mode"] != "none" else ""
    values = " ".join(f"{value:g}" for value in row["strength"]) if steered else ""
    before = "" if unsteered is None else f"{unsteered:.1%}"
    return f"| {row['mode']} | {masks} | {values} | {row['accuracy']:.1%} | {before} |"


if __name__ == "__main__":
    write_page("tiny_page", RESULTS, render)
