"""`--compare`: a slow-down is found, and noise is none."""

import numpy as np
import pytest

from medfocus.benchmarks.bench.report.regressions import regressions
from medfocus.benchmarks.bench.timing.clock import Ratio, ratio
from medfocus.errors import InputError
from tests.benchmarks.bench.rows import HERE, ROW, row, timed

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
            assert slower[0].row.name == "models, classifier, medfocus, openvino, fp32, batch 8"
            assert "slower beside open_clip" in slower[0].problem
    assert found >= 0.9 * RUNS
    assert alarms <= 0.01 * RUNS


def test_a_against_a_is_one_within_its_interval_nineteen_times_in_twenty() -> None:
    """On a machine that drifts and stutters, for as few rounds as are ever taken."""
    random = np.random.default_rng(1)
    for rounds in (6, 9, 30):
        held = 0
        for _ in range(1000):
            drift = np.exp(np.cumsum(random.normal(0, 0.05, rounds)))
            twice = [list(drift * random.lognormal(0, 0.05, rounds)) for _ in range(2)]
            low, high = ratio(*twice)[1:]
            held += low <= 1 <= high
        assert held >= 945


def test_accuracy_and_memory_count_too() -> None:
    assert not regressions([ROW], [row(accuracy=0.996, peak_memory=870)])
    [worse] = regressions([ROW], [row(accuracy=0.99)])
    assert worse.problem == "cosine was 1.0000, and now 0.9900"
    [larger] = regressions([ROW], [row(peak_memory=900)])
    assert larger.problem == "takes 12% more memory: 900 MiB"


def test_what_is_gone_is_named() -> None:
    other = row(contender="medfocus, torch")
    [gone] = regressions([ROW, other], [ROW])
    assert gone == (other, "is not there any more")
    [broken] = regressions([ROW, other], [ROW, row(contender="medfocus, torch", status="broken")])
    assert broken.problem == "was measured, and now: broken"
    startup = row(part="startup")
    assert not regressions([ROW, startup], [ROW])  # that part was not run
    assert not regressions([row(status="not installed"), ROW], [ROW])


def test_ratios_to_two_peers_are_not_compared() -> None:
    [other] = regressions([ROW], [row(peer="autocast", ratio=Ratio(1.0, 0.99, 1.01))])
    assert other.problem == "was beside open_clip, and now beside autocast"
    assert not regressions([ROW], [row(peer="", ratio=None)])  # too few rounds for a ratio


def test_faster_is_no_regression() -> None:
    assert not regressions([ROW], [row(ratio=Ratio(3.0, 2.9, 3.1))])


def test_two_machines_are_not_compared() -> None:
    elsewhere = row(environment=HERE.__class__(**{**HERE.__dict__, "processor": "an arm"}))
    with pytest.raises(InputError, match="another processor: an arm, and this is an x86"):
        regressions([elsewhere], [ROW])
    with pytest.raises(InputError, match="no row of this run"):
        regressions([row(what="segmenter")], [ROW])
