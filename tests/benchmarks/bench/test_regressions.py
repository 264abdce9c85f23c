"""`--compare`: a slow-down is found, and noise is not one."""

from dataclasses import replace

import numpy as np
import pytest

from medfocus.benchmarks.bench.report.regressions import regressions
from medfocus.benchmarks.bench.report.rows import BenchRow
from medfocus.benchmarks.bench.timing.clock import Ratio
from medfocus.errors import InputError
from tests.benchmarks.bench.rows import HERE, ROW, row, timed
from tests.errors import refuses

RUNS = 400


def test_ten_per_cent_are_found_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    found = alarms = 0
    for _ in range(RUNS):
        before = row(ratio=timed(random))
        slower = regressions([before], [row(ratio=timed(random, slower=1.1))])
        found += len(slower)
        alarms += len(regressions([before], [row(ratio=timed(random))]))
        if slower:
            assert slower[0][0].name == "models, classifier, medfocus, openvino, fp32, batch 8"
            assert "slower" in slower[0][1]
    assert found >= 0.9 * RUNS
    assert alarms <= 0.01 * RUNS


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (row(accuracy=0.996, peak_memory=870), None),
        (row(accuracy=0.99), ("cosine", "1.0000", "0.9900")),
        (row(peak_memory=900), ("12%", "900 MiB")),
        (row(ratio=Ratio(3.0, 2.9, 3.1)), None),  # faster
        (row(status="broken"), ("broken",)),
        (row(baseline="autocast", ratio=Ratio(1.0, 0.99, 1.01)), ("open_clip", "autocast")),
        (row(baseline="", ratio=None), None),  # too few rounds for a ratio
    ],
)
def test_what_counts_as_worse(new: BenchRow, words: tuple[str, ...] | None) -> None:
    worse = regressions([ROW], [new])
    assert len(worse) == (words is not None)
    if words is not None:
        assert all(word in worse[0][1] for word in words)


def test_a_row_that_is_missing_is_named() -> None:
    other = row(implementation="medfocus, torch")
    [(missing, _)] = regressions([ROW, other], [ROW])
    assert missing == other
    assert not regressions([ROW, row(part="startup")], [ROW])  # that part was not run
    assert not regressions([row(status="not installed"), ROW], [ROW])


def test_two_machines_are_not_compared() -> None:
    elsewhere = row(environment=replace(HERE, processor="an arm"))
    with refuses(InputError, "bench.not_comparable") as caught:
        regressions([elsewhere], [ROW])
    assert "an arm" in str(caught.value)
    with refuses(InputError, "bench.not_comparable"):
        regressions([row(what="segmenter")], [ROW])
