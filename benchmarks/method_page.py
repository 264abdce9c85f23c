"""Writes docs/method.md from a recorded study, so that no number is typed.

    python -m medfocus.benchmarks.method_page benchmarks/results/cpu -o docs/method.md

The folder holds fewshot.json, the summary.json that `medfocus-eval phantoms --grid` wrote, and
fewshot_unsteered.json, what it wrote for weights from before the CLIP met steering.
"""

from typing import Any

from medfocus.benchmarks.page import table, write_page
from medfocus.fewshot.adapt.fit import STEPS
from medfocus.fewshot.adapt.folds import FOLDS
from medfocus.fewshot.adapt.lora import RANK
from medfocus.fewshot.adapt.probe import TEXT_PULL
from medfocus.fewshot.adapt.strength import STRENGTHS
from medfocus.fewshot.adapt.tip import RATIO, SHARPNESS
from medfocus.fewshot.adapt.training import BATCH, CONTRASTIVE
from medfocus.fewshot.adapt.vpt import COUNT
from medfocus.fewshot.evaluation.intervals import Interval
from medfocus.fewshot.phantoms.sets import (
    DECOY_OPACITY,
    DECOY_SIZE,
    DECOYS,
    DIAMETERS,
    PER_PART,
    PHANTOM_SETS,
)
from medfocus.fewshot.study.plots import accuracy_figure
from medfocus.fewshot.study.summary import Row
from medfocus.models.head import DEFAULT_STRENGTH
from medfocus.models.presets import preset

RESULTS = ("fewshot", "fewshot_unsteered")
LEAST_P = 1e-4  # the file's figures are rounded
GOAL = 0.05  # what focus was expected to gain on three of the four sets, at the least amount

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
        sets=_sets(),
        seeds=max(row["seeds"] for row in rows),
        drawn=found[-1]["adaptation"],
        verdict=_verdict(rows, amounts),
        true_least=100 * min(true_gains),
        true_most=100 * max(true_gains),
        hit_least=min(hit_shares),
        hit_most=max(hit_shares),
        careful=DEFAULT_STRENGTH,
        unsteered=_verdict(results["fewshot_unsteered"]["rows"], amounts),
        fractions="\n\n".join(_fractions(found, name) for name in _names(rows, "adaptation")),
        amount=amounts[0],
        ablation=_ablation(least),
        hits=_hits(study["hits"]),
        hit_all=len(study["hits"]),
        hit_above=_sure(study["hits"], "gain_hit", 1),
        hit_below=_sure(study["hits"], "gain_hit", -1),
        missed_above=_sure(study["hits"], "gain_missed", 1),
        missed_below=_sure(study["hits"], "gain_missed", -1),
        calibration=_calibration(calibrated),
        worse=sum(row["ece_calibrated"] > row["ece"] for row in calibrated),
        scaled=sum(row["adaptation"] != "zero-shot" for row in calibrated),
        explained=explanations[0]["adaptation"],
        explained_images=explanations[0]["images"],
        explanations=_explanations(explanations),
    )


def figure(results: dict[str, Any]) -> str:
    """Accuracy of the last adaptation against the number of labelled images, as SVG."""
    intervals = ("accuracy", "gain")
    rows = [
        Row(**{**row, **{name: row[name] and Interval(*row[name]) for name in intervals}})
        for row in results["fewshot"]["rows"]
    ]
    return accuracy_figure(rows, rows[-1].adaptation)


def _names(rows: list[dict[str, Any]], key: str) -> list[str]:
    return [*dict.fromkeys(row[key] for row in rows)]


def _sets() -> str:
    lines = [
        [
            name,
            chosen.organ,
            ", ".join(
                f"{kind.name} {share:.0%}"
                for kind, share in zip(chosen.kinds, chosen.shares, strict=True)
            ),
        ]
        for name, chosen in PHANTOM_SETS.items()
    ]
    return table(("set", "organ", "classes"), lines)


def _verdict(rows: list[dict[str, Any]], amounts: list[str]) -> str:
    """What was expected of focus, adaptation by adaptation, and whether it came."""
    lines = []
    for adaptation in _names(rows, "adaptation"):
        for focus in ("soft", "hard", "overlay"):
            mine = [row for row in rows if (row["adaptation"], row["focus"]) == (adaptation, focus)]
            if adaptation == "zero-shot":
                continue
            first, last, true = (
                [row for row in mine if (row["amount"], row["masks"]) == wanted]
                for wanted in (
                    (amounts[0], "found"),
                    (amounts[-1], "found"),
                    (amounts[0], "true"),
                )
            )
            enough = sum(row["gain"][0] >= GOAL for row in first)
            apart = sum(row["gain"][1] > 0 for row in first)
            gains = [
                ", ".join(f"{100 * row['gain'][0]:+.1f}" for row in part)
                for part in (first, last, true)
            ]
            lines.append(
                [
                    f"{adaptation}, {focus}",
                    *gains,
                    f"{enough} of {len(first)}",
                    f"{apart} of {len(first)}",
                ]
            )
    names = (
        "",
        f"gains at {amounts[0]}: {', '.join(_names(rows, 'dataset'))}",
        f"at {amounts[-1]}",
        f"with true masks, at {amounts[0]}",
        f"gain of {100 * GOAL:g} or more at {amounts[0]}",
        "interval of the gain above 0",
    )
    return table(names, lines)


def _fractions(rows: list[dict[str, Any]], adaptation: str) -> str:
    """A table of one adaptation: data sets and focus modes down, amounts across."""
    mine = [row for row in rows if row["adaptation"] == adaptation]
    amounts = _names(mine, "amount")
    lines = []
    for dataset in _names(mine, "dataset"):
        for focus in _names(mine, "focus"):
            cells = [row for row in mine if (row["dataset"], row["focus"]) == (dataset, focus)]
            lines.append([f"{dataset}, {focus}", *map(_accuracy, cells)])
    shown = ["no labelled image" if amount == "none" else amount for amount in amounts]
    return f"### {adaptation}\n\n" + table(("data set, focus", *shown), lines)


def _accuracy(row: dict[str, Any]) -> str:
    mean, low, high = row["accuracy"]
    return f"{mean:.1%} ({low:.1%} to {high:.1%})"


def _gain(row: dict[str, Any]) -> str:
    if row["gain"] is None:
        return ""
    mean, low, high = (100 * value for value in row["gain"])
    p = f"p {row['p']:.2g}" if row["p"] >= LEAST_P else f"p < {LEAST_P:g}"
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}), {p}"


def _ablation(rows: list[dict[str, Any]]) -> str:
    lines = []
    for adaptation in _names(rows, "adaptation"):
        for dataset in _names(rows, "dataset"):
            for focus in ("overlay", "soft", "hard"):
                mine = {
                    row["masks"]: row
                    for row in rows
                    if (row["adaptation"], row["dataset"], row["focus"])
                    == (adaptation, dataset, focus)
                }
                cells = [_gain(mine[masks]) for masks in ("found", "true", "random")]
                lines.append([f"{adaptation}, {dataset}, {focus}", *cells])
    return table(("gain over none, points", "found", "true", "random"), lines)


def _sure(gains: list[dict[str, Any]], which: str, sign: int) -> int:
    """How many intervals lie on one side of 0."""
    return sum(
        each[which] is not None and min(sign * each[which][1], sign * each[which][2]) > 0
        for each in gains
    )


def _hits(gains: list[dict[str, Any]]) -> str:
    """Adaptations and modes down, data sets across: on hits / on misses."""
    datasets = _names(gains, "dataset")
    shares = {each["dataset"]: each["hits"] / (each["hits"] + each["misses"]) for each in gains}
    rows: dict[str, list[str]] = {}
    for each in gains:
        cell = " / ".join(
            ""
            if gain is None
            else f"{100 * gain[0]:+.1f} ({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})"
            for gain in (each["gain_hit"], each["gain_missed"])
        )
        rows.setdefault(f"{each['adaptation']}, {each['focus']}", []).append(cell)
    names = ("on hits / on others", *(f"{name}, hit in {shares[name]:.0%}" for name in datasets))
    return table(names, [[name, *cells] for name, cells in rows.items()])


def _calibration(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{row['adaptation']}, {row['dataset']}, {row['focus']}",
            f"{row['balanced_accuracy']:.1%}",
            f"{row['macro_f1']:.3f}",
            f"{row['auroc']:.3f}",
            f"{row['ece']:.3f}",
            f"{row['ece_calibrated']:.3f}",
        ]
        for row in rows
    ]
    return table(("", "balanced accuracy", "macro F1", "AUROC", "ECE", "ECE, scaled"), lines)


def _explanations(explanations: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{each['dataset']}, {each['focus']}",
            f"{each['pointing']:.0%}",
            f"{each['mass']:.1%}",
            f"{each['area']:.1%}",
            f"{each['iou']:.2f}",
            f"{each['deletion']:.3f}",
            f"{each['insertion']:.3f}",
        ]
        for each in explanations
    ]
    return table(("", "pointing", "mass", "area", "IoU", "deletion", "insertion"), lines)


if __name__ == "__main__":
    write_page("method_page", RESULTS, render, {"method": figure})
