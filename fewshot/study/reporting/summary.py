"""Summarises runs: one row per setting, over its seeds, compared with focus `none`."""

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
        seeds: number of runs; images: test images per run; trained_on: training images per run.
        accuracy: mean and 95% interval, over images and seeds; Wilson's for a single run.
        balanced_accuracy, macro_f1, auroc: means over the seeds; auroc None if undefined.
        ece, ece_calibrated: before and after temperature scaling, means over the seeds.
        gain: in accuracy over focus `none`, paired by image and seed; None without such runs.
        p: of McNemar's test against `none`; None without such runs, and for several seeds, since
            answers to one image are not independent across seeds.
        strength: mean λ of each layer.
        seconds: mean duration of an adaptation.
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
        """Plain lists and numbers, rounded to five decimals."""
        return {name: rounded(value) for name, value in asdict(self).items()}


def summarise(runs: Iterable[Run]) -> list[SettingSummary]:
    """One row per setting, in order of first appearance."""
    groups = groups_of(runs)
    return [_row(group, without_focus(groups, key)) for key, group in groups.items()]


SettingKey = tuple[str, str, str, str, str]  # data set, adaptation, amount, focus, masks


def groups_of(runs: Iterable[Run]) -> dict[SettingKey, list[Run]]:
    """Group runs that differ only in their seed, in order of first appearance."""
    groups: dict[SettingKey, list[Run]] = {}
    for run in runs:
        of = run.setting
        key = of.dataset, of.adaptation, of.amount, of.focus, of.masks
        groups.setdefault(key, []).append(run)
    return groups


def without_focus(groups: Mapping[SettingKey, list[Run]], key: SettingKey) -> list[Run] | None:
    """The runs of the same setting with focus `none`; None if it has none or is that setting."""
    return None if key[3] == "none" else groups.get((*key[:3], "none", "found"))


def _row(runs: list[Run], plain: list[Run] | None) -> SettingSummary:
    correct = correct_answers(runs)
    gain = p = None
    if plain is not None:
        others = correct_answers(plain)
        gain = bootstrap_difference(correct, others)
        p = mcnemar(correct[0], others[0]) if len(runs) == 1 else None
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
        images=correct.shape[1],
        trained_on=runs[0].trained_on,
        accuracy=bootstrap_mean(correct)
        if len(runs) > 1
        else wilson(int(correct.sum()), correct.size),
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


def correct_answers(runs: Sequence[Run]) -> NDArray[np.bool_]:
    """Whether each answer is correct: (S, N), seeds ascending.

    Raises:
        InputError: the runs have different test images.
    """
    ordered = sorted(runs, key=lambda run: run.setting.seed)
    if any(not np.array_equal(run.labels, ordered[0].labels) for run in ordered):
        raise InputError(
            f"runs of {ordered[0].setting.dataset}",
            "have different test images",
            "run all of them again",
            code="split.different_test_images",
        )
    return np.stack([run.correct for run in ordered])


def csv_text(rows: Sequence[SettingSummary]) -> str:
    """The rows as CSV, with separate columns for the bounds of intervals."""
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
    """The main columns as a table for the terminal."""
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
        table.add_row(*words, *cells(row)[:4])
    return table


def cells(row: SettingSummary) -> tuple[str, ...]:
    """Accuracy, interval, gain, p, AUROC, and ECE before and after scaling, as text."""
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
    """Round floats, also in tuples, to five decimals; other values are returned unchanged."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, tuple):
        return [rounded(part) for part in value]
    return value
