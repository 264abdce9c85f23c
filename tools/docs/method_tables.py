"""The tables of docs/method.md, from the rows of a recorded study."""

from typing import Any

from medfocus.fewshot.study.phantom_sets import PHANTOM_SETS
from tools.docs.page import table

LEAST_P = 1e-4  # the file's figures are rounded
GOAL = 0.05  # what focus was expected to gain on three of the four sets, at the least amount


def distinct(rows: list[dict[str, Any]], key: str) -> list[str]:
    """The values of a key, in the order in which they first appear."""
    return [*dict.fromkeys(row[key] for row in rows)]


def sets_table() -> str:
    """The phantom sets: organ, and the share of each class."""
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


def verdict_table(rows: list[dict[str, Any]], amounts: list[str]) -> str:
    """What was expected of focus, adaptation by adaptation, and whether it came."""
    lines = []
    for adaptation in distinct(rows, "adaptation"):
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
        f"gains at {amounts[0]}: {', '.join(distinct(rows, 'dataset'))}",
        f"at {amounts[-1]}",
        f"with true masks, at {amounts[0]}",
        f"gain of {100 * GOAL:g} or more at {amounts[0]}",
        "interval of the gain above 0",
    )
    return table(names, lines)


def fractions_table(rows: list[dict[str, Any]], adaptation: str) -> str:
    """A table of one adaptation: data sets and focus modes down, amounts across."""
    mine = [row for row in rows if row["adaptation"] == adaptation]
    amounts = distinct(mine, "amount")
    lines = []
    for dataset in distinct(mine, "dataset"):
        for focus in distinct(mine, "focus"):
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


def ablation_table(rows: list[dict[str, Any]]) -> str:
    """Gains over `none` with SAM2's masks, the lesions' own, and moved ones."""
    lines = []
    for adaptation in distinct(rows, "adaptation"):
        for dataset in distinct(rows, "dataset"):
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


def sure(gains: list[dict[str, Any]], which: str, sign: int) -> int:
    """How many intervals lie above 0, or, with sign -1, below.

    Args:
        gains: rows of `HitGain`.
        which: `gain_hit` or `gain_missed`.
        sign: 1 or -1.
    """
    return sum(
        each[which] is not None and min(sign * each[which][1], sign * each[which][2]) > 0
        for each in gains
    )


def hits_table(gains: list[dict[str, Any]]) -> str:
    """Adaptations and modes down, data sets across: on hits / on misses."""
    datasets = distinct(gains, "dataset")
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


def calibration_table(rows: list[dict[str, Any]]) -> str:
    """Averages over the classes, AUROC, and calibration errors."""
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


def explanations_table(explanations: list[dict[str, Any]]) -> str:
    """Where attention lay, by data set and focus mode."""
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
