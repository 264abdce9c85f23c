"""Rows compared with results computed from the runs by hand."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from medfocus.errors import InputError
from medfocus.fewshot.evaluation.intervals import bootstrap_difference, mcnemar, wilson
from medfocus.fewshot.study.reporting.paper import paper_table
from medfocus.fewshot.study.reporting.summary import csv_text, summarise
from medfocus.fewshot.study.run import Run
from tests.errors import refuses
from tests.fewshot.study.fake_runs import fake_run, fake_study


def test_a_row() -> None:
    runs = fake_study()
    rows = {(row.amount, row.focus, row.masks): row for row in summarise(runs)}
    assert len(rows) == 5
    soft = [r for r in runs if (r.setting.amount, r.setting.focus) == ("5%", "soft")]
    soft = [run for run in soft if run.setting.masks == "found"]
    plain = [r for r in runs if (r.setting.amount, r.setting.focus) == ("5%", "none")]
    row = rows["5%", "soft", "found"]
    correct, others = np.stack([r.correct for r in soft]), np.stack([r.correct for r in plain])
    assert (row.seeds, row.images, row.trained_on) == (3, 40, 12)
    assert row.accuracy.mean == pytest.approx(correct.mean())
    assert row.accuracy.low < row.accuracy.mean < row.accuracy.high
    assert row.gain == bootstrap_difference(correct, others)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(correct.mean() - others.mean())
    assert row.p is None  # answers to one image are not independent across seeds
    (single,) = [row for row in summarise([soft[0], plain[0]]) if row.focus == "soft"]
    assert single.p == mcnemar(correct[0], others[0])
    assert row.ece == pytest.approx(np.mean([run.metrics.ece for run in soft]))
    assert rows["5%", "none", "found"].gain is None
    true = rows["5%", "soft", "true"]
    assert true.gain is not None
    assert true.gain.mean == pytest.approx(true.accuracy.mean - others.mean())


def test_the_order_of_the_seeds_does_not_matter() -> None:
    runs = fake_study()
    assert [row.gain for row in summarise(runs)] == [
        row.gain for row in sorted(summarise(runs[::-1]), key=lambda row: _place(row, runs))
    ]


def _place(row: object, runs: list[Run]) -> int:
    key = [getattr(row, name) for name in ("amount", "focus", "masks")]
    return next(
        i for i, r in enumerate(runs)
        if [r.setting.amount, r.setting.focus, r.setting.masks] == key
    )  # fmt: skip


def test_one_run_gets_wilsons_interval() -> None:
    run = fake_study()[0]
    (row,) = summarise([run])
    assert row.accuracy == wilson(int(run.correct.sum()), len(run.correct))


def test_runs_on_different_images_are_refused() -> None:
    first, _, _, second, *_ = fake_study()
    other = Run(**{**vars(second), "labels": np.roll(second.labels, 1)})
    with refuses(InputError, "split.different_test_images", "brain"):
        summarise([first, other])


def test_json_round_trip() -> None:
    run = fake_study()[4]
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()
    assert again.setting == run.setting


def test_calibrated_probabilities_are_those_of_the_scaled_logits() -> None:
    run = fake_study()[0]
    logits = np.log(run.probabilities) / run.temperature
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(run.calibrated, expected, rtol=1e-12)


def test_csv_has_columns_for_intervals() -> None:
    rows = [*csv.DictReader(io.StringIO(csv_text(summarise(fake_study()))))]
    assert len(rows) == 5
    first = rows[0]
    assert float(first["accuracy_low"]) < float(first["accuracy"]) < float(first["accuracy_high"])
    assert first["gain"] == ""
    assert rows[1]["gain_low"] != ""


def test_the_papers_table() -> None:
    """The paper's results next to ours, of the data sets that were run; phantoms are marked."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(paper_table(summarise(fake_study()), "probe", phantoms=True))
    text = console.export_text()
    assert "not to be compared" in text
    assert "86.09%" in text
    assert "71.15%" not in text
    covid = fake_run(
        fake_study()[0].setting.__class__("covid", "soft", "found", "probe", "5%", 0), 0.5
    )
    console.print(paper_table(summarise([covid]), "probe", phantoms=False))
    text = console.export_text()
    assert "71.15% (59% to 81%)" in text
    assert "not run" in text
    assert "not to be compared" not in text
