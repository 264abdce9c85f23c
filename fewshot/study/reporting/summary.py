"""Runs to rows: each setting over its seeds, with intervals, beside the same without focus."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.intervals import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    wilson,
)
from medfocus.fewshot.evaluation.metrics import expected_calibration_error
from medfocus.fewshot.study.run import Run


@dataclass(frozen=True)
class SettingSummary:
    """One setting over its seeds.

    Attributes:
        dataset, adaptation, amount, focus, masks: the setting.
        seeds: how many runs; images: how many each answered; trained_on: how many it learned from.
        accuracy: its mean and 95% interval, over images and seeds; Wilson's with one run.
        balanced_accuracy, macro_f1, auroc: means over the seeds; auroc None where undefined.
        ece, ece_calibrated: before and after temperature scaling, means over the seeds.
        gain: of accuracy over focus `none`, paired by image and seed; None where there is none.
        p: McNemar's, against `none`, of the first seed; None likewise. Images are independent of
            each other within one run only, so the seeds are not pooled.
        strength: mean λ of each layer.
        seconds: mean time of an adaptation.
    """

    dataset: str
    adaptation: str
    amount: str
    focus: str
    masks: str
    seeds: int
    images: int
    trained_on: int
    accuracy: Interval
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None
    ece: float
    ece_calibrated: float
    gain: Interval | None
    p: float | None
    strength: tuple[float, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to what they are worth."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def summarise(runs: Iterable[Run]) -> list[SettingSummary]:
    """A row a setting, in the order in which the settings first appear."""
    groups = groups_of(runs)
    return [_row(group, without_focus(groups, key)) for key, group in groups.items()]


Key = tuple[str, str, str, str, str]  # data set, adaptation, amount, focus, masks


def groups_of(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    """The runs that differ by their seed alone, in the order in which they first appear."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        of = run.setting
        key = of.dataset, of.adaptation, of.amount, of.focus, of.masks
        groups.setdefault(key, []).append(run)
    return groups


def without_focus(groups: Mapping[Key, list[Run]], key: Key) -> list[Run] | None:
    """The runs of the same setting with focus `none`; None where it is that one, or has none."""
    return None if key[3] == "none" else groups.get((*key[:3], "none", "found"))


def _row(runs: list[Run], plain: list[Run] | None) -> SettingSummary:
    right = answers(runs)
    gain = p = None
    if plain is not None:
        others = answers(plain)
        gain, p = bootstrap_difference(right, others), mcnemar(right[0], others[0])
    metrics = [run.metrics for run in runs]
    aurocs = [each.auroc for each in metrics if each.auroc is not None]
    setting = runs[0].setting
    return SettingSummary(
        dataset=setting.dataset,
        adaptation=setting.adaptation,
        amount=setting.amount,
        focus=setting.focus,
        masks=setting.masks,
        seeds=len(runs),
        images=right.shape[1],
        trained_on=runs[0].trained_on,
        accuracy=bootstrap_mean(right) if len(runs) > 1 else wilson(int(right.sum()), right.size),
        balanced_accuracy=float(np.mean([each.balanced_accuracy for each in metrics])),
        macro_f1=float(np.mean([each.macro_f1 for each in metrics])),
        auroc=float(np.mean(aurocs)) if len(aurocs) == len(runs) else None,
        ece=float(np.mean([each.ece for each in metrics])),
        ece_calibrated=float(
            np.mean([expected_calibration_error(run.calibrated, run.labels) for run in runs])
        ),
        gain=gain,
        p=p,
        strength=tuple(np.mean([run.strength for run in runs], axis=0).tolist()),
        seconds=float(np.mean([run.seconds for run in runs])),
    )


def answers(runs: Sequence[Run]) -> NDArray[np.bool_]:
    """Which answers are right: (S, N), the seeds ascending.

    Raises:
        InputError: the runs answered different images.
    """
    ordered = sorted(runs, key=lambda run: run.setting.seed)
    if any(not np.array_equal(run.labels, ordered[0].labels) for run in ordered):
        raise InputError(
            f"runs of {ordered[0].setting.dataset}",
            "have different test images",
            "run them again, all of them",
        )
    return np.stack([run.right for run in ordered])


def csv_text(rows: Sequence[SettingSummary]) -> str:
    """The rows as CSV, intervals in columns of their own."""
    flat = []
    for row in rows:
        content = row.to_json()
        for name in ("accuracy", "gain"):
            interval = content.pop(name) or (None, None, None)
            content |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
        content["strength"] = " ".join(map(str, content["strength"]))
        flat.append(content)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*flat[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def console_table(rows: Sequence[SettingSummary], title: str) -> Table:
    """What matters of the rows, for the terminal; the files hold the rest."""
    table = Table(title=title)
    for name in ("data set", "adaptation", "images", "focus", "masks"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "95% interval", "gain over none", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    last: tuple[str, ...] = ()
    for row in rows:
        section = (row.dataset, row.adaptation)
        if last and section != last:
            table.add_section()
        last = section
        words = (row.dataset, row.adaptation, row.amount, row.focus, row.masks)
        table.add_row(*words, *figures(row)[:4])
    return table


def figures(row: SettingSummary) -> tuple[str, ...]:
    """Accuracy, interval, gain, p, AUROC, ECE before and after scaling, in words."""
    gain = "" if row.gain is None else points(row.gain)
    return (
        f"{row.accuracy.mean:.1%}",
        f"{row.accuracy.low:.1%} to {row.accuracy.high:.1%}",
        gain,
        "" if row.p is None else f"{row.p:.2g}",
        "" if row.auroc is None else f"{row.auroc:.3f}",
        f"{row.ece:.3f}",
        f"{row.ece_calibrated:.3f}",
    )


def points(gain: Interval) -> str:
    """A difference in percentage points, with its interval."""
    mean, low, high = (100 * value for value in gain)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def rounded(value: Any) -> Any:
    """Floats, alone or in tuples, to five places; all else as it is."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, tuple):
        return [rounded(part) for part in value]
    return value
