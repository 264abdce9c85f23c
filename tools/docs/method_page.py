"""Writes docs/method.md from a recorded study, so that no number is typed.

    python -m tools.docs.method_page benchmarks/results/cpu -o docs/method.md

The folder holds fewshot.json, the summary.json that `medfocus-eval phantoms --grid` wrote, and
fewshot_unsteered.json, what it wrote for weights from before the CLIP met steering.
"""

from typing import Any

from medfocus.fewshot.adapt.fit import STEPS
from medfocus.fewshot.adapt.folds import FOLDS
from medfocus.fewshot.adapt.lora import RANK
from medfocus.fewshot.adapt.probe import TEXT_PULL
from medfocus.fewshot.adapt.strength import STRENGTHS
from medfocus.fewshot.adapt.tip import RATIO, SHARPNESS
from medfocus.fewshot.adapt.training import BATCH, CONTRASTIVE
from medfocus.fewshot.adapt.vpt import COUNT
from medfocus.fewshot.evaluation.intervals import Interval
from medfocus.fewshot.study.phantom_sets import (
    DECOY_OPACITY,
    DECOY_SIZE,
    DECOYS,
    DIAMETERS,
    PER_PART,
)
from medfocus.fewshot.study.reporting.plots import accuracy_figure
from medfocus.fewshot.study.reporting.summary import SettingSummary
from medfocus.models.head import DEFAULT_STRENGTH
from medfocus.models.presets import preset
from tools.docs.method_tables import (
    GOAL,
    ablation_table,
    calibration_table,
    distinct,
    explanations_table,
    fractions_table,
    hits_table,
    sets_table,
    sure,
    verdict_table,
)
from tools.docs.page import write_page

RESULTS = ("fewshot", "fewshot_unsteered")

TEXT = """# The method

MedFocusCLIP ([arXiv 2501.03839](https://arxiv.org/abs/2501.03839)): SAM2 segments an image with no
training, the segmentation steers CLIP's attention, and CLIP is adapted with a few labelled images.
The segmentation stands beside the answer as its evidence.

```
medfocus-fit DATASET --shots 16 --adapt lora --focus soft -o head.safetensors
medfocus-eval DATASET --head head.safetensors --report report/
medfocus-export --head head.safetensors -o engines/mine
medfocus-eval phantoms --grid --protocol paper --report report/
```

## Data

| layout | |
|---|---|
| `FOLDER/<class>/<image>` | one pool: a fifth of it, stratified, is held out to test on |
| `FOLDER/{{train,test}}/<class>/<image>` | the authors' parts |
| a CSV | `path`, `label`, and as known `group` (a patient), `split` (train, test), `mask` (of the lesion; several with `;`) |
| `--recipe covid`, `lung`, `brain`, `breast` | published data sets as unpacked; what is missing is named |

PNG, JPEG, TIFF, WebP, BMP and DICOM, each frame of a file an image of its label. Groups are never
torn apart; of DICOM files the patient is the group. A split is a JSON file with a hash of every
file, and never a group in it. For one seed a smaller amount of training images is contained in a
larger one.

Refused are files that cannot be read, all of them counted; the same file in both parts, or with two
labels; a label that is not in `--classes FILE`, where that is given. `--skip-bad` leaves such files
out and names each (published sets have copies). A test image whose pixels a head has learned from is
refused in any case, whatever its file looks like.

A head is tested on the test part of its split, or on all of another data set; `answers.csv` in the
report holds the probabilities that an engine with this head gives.

The masks of SAM2 are kept on the disk, named by a hash of the pixels and of the segmenter, so that
an image is segmented once, in whatever run.

## Adaptations

| `--adapt` | what is learned | from |
|---|---|---|
| `zero-shot` | nothing: class prompts, "This is a photo of {{class}}" | CLIP |
| `probe` | class embeddings, pulled to the text with weight {pull:g}; no validation set | CLAP, LP++ |
| `tip` | a cache of the images beside the text, its keys fine-tuned; ratio {ratio:g}, sharpness {sharpness:g} | Tip-Adapter-F |
| `vpt` | {prompts} tokens a layer, class embeddings, focus strengths | VPT-deep |
| `lora` | rank {rank} on every attention projection of the image encoder, class embeddings, focus strengths; without peft, which replaces modules, where attention here reads one packed tensor | LoRA |
| `full` | both towers, focus strengths | the paper |

`vpt`, `lora` and `full` take {steps} steps of {batch} images (`--steps`) with AdamW and a cosine
decay; the first two start at the probe.

**The focus strength** λ of `soft` is the preset's ({strength:g} for `tiny`) in every layer, unless
another of {strengths} answers held-out folds of the training images clearly better: by more
cross-entropy than the standard error of the difference, with a probe (in `tip`, a cache) refitted
for each. 0 is among them, so that plain CLIP remains where focus does not help. `vpt`, `lora` and
`full` go on from there and learn it layer by layer, kept from falling below 0.

**The objective** is the paper's λ·Lc + (1 − λ)·Le. The paper does not say what they are in detail,
nor λ. Here Le is cross-entropy over the classes, and Lc CLIP's symmetric contrastive loss between
the images of a batch and the prompts of the classes in it, all images of a class being positives of
its prompt: the terms that "contrastive" and "classification" mean in CLIP. λ is {contrastive:g}.

**The temperature** is fitted on the training images alone: {folds} folds, each answered by a head of
the others, on frozen features. With an image a class there is none. A trained encoder has seen all
of the images and would be sure of them; a temperature fitted on its answers did harm.

**What the paper leaves open**, and what was chosen: SAM2's prompts (nine points on a grid), which of
its masks is taken (the best by predicted IoU × stability), what happens without a region (plain
CLIP: to the bit, or up to rounding where the batch has images with one), how the mask steers (four modes, [ARCHITECTURE.md](ARCHITECTURE.md)), and every
setting of the training. Nothing was chosen on test images; learning rates were set on other
phantoms than those below.

## The phantom sets

They stand in for the paper's sets where those cannot be had: organ, number of classes and imbalance
are alike. In each of {pictures} pictures a set, half of them to test on, the class lives in one
lesion, {least:.0%} to {most:.0%} of the side wide; {decoys} decoys, {decoy_least:.0%} to
{decoy_most:.0%} of the largest lesion's size and {faint:.0%} to {strong:.0%} as opaque, show any of
the set's kinds without regard to the class. **So they were built to mislead a classifier that looks
everywhere, and say nothing of patients' images.**

{sets}

## What came of it

`tiny`, {seeds} seeds. Accuracy with its 95% interval (images and seeds drawn anew together); gain
over `none` in percentage points, paired by image and seed; p is McNemar's, of the first seed. What
was hoped for: `soft` or `hard` gains {goal:g} points or more at {amount} on three of the four sets,
and less as images grow more.

![Accuracy against labelled images, a panel a set](images/method.svg)

*{drawn}*, by focus mode; bands are 95% intervals.

{verdict}

With the lesions' own masks `soft` and `hard` gain {true_least:.1f} to {true_most:.1f} points in every
set: what is missing is the segmentation. SAM2's mask hits the lesion, with an intersection over
union of a half or more, in {hit_least:.0%} to {hit_most:.0%} of a set's test images; where it misses,
focus shows CLIP something else, and costs answers ([below](#where-the-mask-hits)).

### A CLIP that never met steering

`tiny`'s CLIP is steered by true masks in half of its training ([tiny.md](tiny.md)). This is the same
study of earlier weights that never were, with λ = {careful:g} (learned in `lora`, from there): `soft` helped
less, and `hard` and `overlay` did harm, with true masks as well. So what focus gains depends on the
CLIP: **before you rely on it with a CLIP of yours, run the grid on your own data.**

{unsteered}

{fractions}

### Which masks

At {amount}: SAM2's masks (found), the lesions' own (true), which bound what better segmentation
could give, and SAM2's moved elsewhere (random), which must not help. Where true gains more than
found, the segmentation is what is missing; where neither gains much, CLIP finds the lesion among the
decoys by itself; where true loses too, the mode itself does harm to this CLIP.

{ablation}

### Where the mask hits

Gain over `none` at {amount} in points: on the test images whose lesion SAM2's mask hits, and on the
others. The interval is above 0 in {hit_above} of {hit_all} cells on hits and in {missed_above} on the
others, below 0 in {hit_below} and {missed_below}.

{hits}

### Calibration and other averages

At {amount}, found masks. Temperature scaling made the calibration error of {worse} of these
{scaled} adapted heads larger: so few images say little of a temperature, and the held-out heads that
it is fitted on have seen fewer still.

{calibration}

### Was it the lesion?

Attention rolled out through all layers of {explained} at its largest amount, on {explained_images}
test images a set. Pointing: how often the patch with the most attention touches the lesion. Mass:
the attention on the lesion, beside the share of the picture it covers. Deletion is good when low,
insertion when high; with `hard`, CLIP sees the region alone, so that mass and insertion are high by
construction.

{explanations}

## Limits

Phantoms are not patients, and `tiny` is not CLIP: it learned from phantoms, and from steering, which
no published CLIP has met. The paper's own data sets and weights could not be had; its figures are in
`--protocol paper`, with the intervals that its test sets allow. All adaptations are tested; those in
the study are named above.
"""  # noqa: E501


def render(results: dict[str, Any]) -> str:
    """The page, from the results by name."""
    study = results["fewshot"]
    rows, explanations = study["rows"], study["explanations"]
    amounts = [*dict.fromkeys(row["amount"] for row in rows if row["adaptation"] != "zero-shot")]
    found = [row for row in rows if row["masks"] == "found"]
    least = [row for row in rows if row["amount"] in (amounts[0], "none")]
    true_gains = [
        row["gain"][0]
        for row in least
        if row["masks"] == "true" and row["focus"] in ("soft", "hard") and row["amount"] != "none"
    ]
    calibrated = [
        row for row in least if row["masks"] == "found" and row["focus"] in ("none", "soft")
    ]
    hit_shares = [each["hits"] / (each["hits"] + each["misses"]) for each in study["hits"]]
    return TEXT.format(
        goal=100 * GOAL,
        pull=TEXT_PULL,
        ratio=RATIO,
        sharpness=SHARPNESS,
        prompts=COUNT,
        rank=RANK,
        steps=STEPS,
        batch=BATCH,
        strength=preset("tiny").strength,
        strengths=", ".join(f"{value:g}" for value in STRENGTHS),
        contrastive=CONTRASTIVE,
        folds=FOLDS,
        pictures=2 * PER_PART,
        least=DIAMETERS[0],
        most=DIAMETERS[1],
        decoys=DECOYS,
        decoy_least=DECOY_SIZE[0],
        decoy_most=DECOY_SIZE[1],
        faint=DECOY_OPACITY[0],
        strong=DECOY_OPACITY[1],
        sets=sets_table(),
        seeds=max(row["seeds"] for row in rows),
        drawn=found[-1]["adaptation"],
        verdict=verdict_table(rows, amounts),
        true_least=100 * min(true_gains),
        true_most=100 * max(true_gains),
        hit_least=min(hit_shares),
        hit_most=max(hit_shares),
        careful=DEFAULT_STRENGTH,
        unsteered=verdict_table(results["fewshot_unsteered"]["rows"], amounts),
        fractions="\n\n".join(
            fractions_table(found, name) for name in distinct(rows, "adaptation")
        ),
        amount=amounts[0],
        ablation=ablation_table(least),
        hits=hits_table(study["hits"]),
        hit_all=len(study["hits"]),
        hit_above=sure(study["hits"], "gain_hit", 1),
        hit_below=sure(study["hits"], "gain_hit", -1),
        missed_above=sure(study["hits"], "gain_missed", 1),
        missed_below=sure(study["hits"], "gain_missed", -1),
        calibration=calibration_table(calibrated),
        worse=sum(row["ece_calibrated"] > row["ece"] for row in calibrated),
        scaled=sum(row["adaptation"] != "zero-shot" for row in calibrated),
        explained=explanations[0]["adaptation"],
        explained_images=explanations[0]["images"],
        explanations=explanations_table(explanations),
    )


def figure(results: dict[str, Any]) -> str:
    """Accuracy of the last adaptation against the number of labelled images, as SVG."""
    intervals = ("accuracy", "gain")
    rows = [
        SettingSummary(
            **{**row, **{name: row[name] and Interval(*row[name]) for name in intervals}}
        )
        for row in results["fewshot"]["rows"]
    ]
    return accuracy_figure(rows, rows[-1].adaptation)


if __name__ == "__main__":
    write_page("method_page", RESULTS, render, {"method": figure})
