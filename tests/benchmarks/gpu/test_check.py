"""`make gpu-check` as far as it runs without a GPU: peers, statistics, rows, goals and words."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from medfocus.benchmarks.baselines import pipeline as pipeline_peers
from medfocus.benchmarks.baselines import ragged as ragged_peers
from medfocus.benchmarks.baselines.attention import (
    LAYOUTS,
    OURS,
    Comparison,
    KernelImplementation,
    aligned_mask,
    exact_attention,
    flex,
    joined,
    masked,
    split_heads,
)
from medfocus.benchmarks.bench.timing.clock import interleave, quantile, ratio, turns
from medfocus.benchmarks.gpu import check as gpu_check
from medfocus.benchmarks.gpu import compare as gpu_compare
from medfocus.benchmarks.gpu import test_run as gpu_tests
from medfocus.benchmarks.gpu.compare import compare, relative_error
from medfocus.benchmarks.gpu.goals import GOAL_SHAPES, goals, goals_table, missed
from medfocus.benchmarks.gpu.pipeline_goals import GOALS
from medfocus.benchmarks.gpu.plot import plot
from medfocus.benchmarks.gpu.rows import KernelTiming, missing_row, write_rows
from medfocus.benchmarks.gpu.test_run import (
    MODELS_ON_KERNELS,
    PIPELINE_ON_STREAMS,
    in_share,
    run_tests,
)
from medfocus.benchmarks.gpu.timing import Ceilings, calls_a_replay
from medfocus.errors import MedfocusError
from medfocus.kernels import dispatch
from tests.benchmarks.bench.rows import HERE

ROOT = Path(__file__).parents[2]
CEILINGS = Ceilings(bandwidth=4e12, matrix_rate=8e14)
ON_GPU = replace(HERE, device="NVIDIA H200", driver="570.1")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it is about having no GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are the GPU's")


# Peers compute the same thing.


def on_cpu() -> list[Comparison]:
    exact = torch.float32, "cpu"
    return [
        masked(2, 3, 21, 16, *exact),
        ragged_peers.ragged(6, 2, 40, 16, *exact),
        ragged_peers.cls_row(3, 2, 13, 16, *exact),
        pipeline_peers.window("fits", 2, 8, 32, 2, 4, False, *exact),
        pipeline_peers.window("padded", 2, 10, 32, 2, 4, False, *exact),
        pipeline_peers.window("pooled", 2, 8, 32, 2, 4, True, *exact),
        pipeline_peers.focus(5, 14, 64, 3, "cpu"),
    ]


@pytest.mark.parametrize("comparison", on_cpu(), ids=lambda c: f"{c.kernel}-{c.shape}")
def test_contenders_agree_with_float64(comparison: Comparison) -> None:
    exact = comparison.exact()
    assert exact.dtype == torch.float64
    ran = set()
    for contender in comparison.contenders:
        if contender.name in ("SDPA efficient", "SDPA cuDNN"):  # CUDA's alone
            with pytest.raises(RuntimeError, match=r"No (available kernel|viable backend)"):
                contender.build()()
        elif contender.name not in ("FlashAttention-4", "FlexAttention", "PyTorch compiled"):
            if "no bias" not in contender.name:
                assert relative_error(contender.answer(contender.build()()), exact) < 2e-6
            ran.add(contender.name)
    assert len(ran) >= 2


def test_every_contender_in_another_layout_is_tried() -> None:
    names = [contender.name for contender in masked(1, 1, 4, 16, torch.float32, "cpu").contenders]
    assert names[0] == OURS
    for name in ("SDPA efficient", "SDPA cuDNN", "SDPA math"):
        assert names.count(name) == 2 * len(LAYOUTS)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_adds_the_same_bias() -> None:
    qkv, bias = torch.randn(2, 21, 3 * 2 * 16), -5 * torch.rand(2, 21)
    found = joined(flex(qkv, bias, 2, flex_attention)())
    assert relative_error(found, exact_attention(qkv, bias, 2)) < 2e-6


def test_flash_attention_4_is_missing_by_name() -> None:
    contender = masked(1, 1, 4, 16, torch.float32, "cpu").contenders[-1]
    with pytest.raises(MedfocusError, match="FlashAttention-4: it is not installed"):
        contender.build()


def test_bfloat16_peers_get_our_bias_to_the_bit() -> None:
    comparison = masked(2, 2, 21, 32, torch.bfloat16, "cpu")
    exact = comparison.exact()
    for contender in comparison.contenders:
        if contender.name in (OURS, "SDPA math"):
            assert relative_error(contender.answer(contender.build()()), exact) < 0.01


def test_a_mask_is_laid_out_so_that_nobody_copies_it() -> None:
    bias = torch.randn(3, 197)
    for heads in (None, 4):
        mask = aligned_mask(bias, torch.float32, 197, heads)
        assert mask.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
        assert mask.untyped_storage().nbytes() == 3 * 200 * 4
        assert torch.equal(mask[:, -1, -1], bias)


def test_layouts_hold_the_same_numbers() -> None:
    q = split_heads(torch.randn(2, 5, 3 * 4 * 8), 4)[0]
    strides = set()
    for layout in LAYOUTS.values():
        assert torch.equal(layout(q), q)
        strides.add(layout(q).stride())
    assert strides == {(160, 40, 8, 1), (160, 8, 32, 1)}


@torch.no_grad()
def test_hard_focus_is_the_dense_answer_for_less() -> None:
    comparison = pipeline_peers.hard("medfocus_tiny", 4, torch.float32, "cpu")
    exact = comparison.exact()
    for contender in comparison.contenders:
        assert not contender.graph
        assert relative_error(contender.answer(contender.build()()), exact) < 1e-5
    assert dispatch.last_path("masked_attention_varlen") == "torch"
    assert comparison.contenders[1].flop is not None
    assert 0.2 < comparison.flop / comparison.contenders[1].flop < 0.31


def test_a_relative_error_by_hand() -> None:
    exact = torch.tensor([3.0, 4.0]).double()
    assert relative_error(torch.tensor([3.0, 4.5, 99.0]), exact) == pytest.approx(0.1)
    assert relative_error(torch.tensor([float("nan"), 4.0]), exact) == float("inf")


# Statistics.


def test_quantiles_are_numpys() -> None:
    values = np.random.default_rng(0).exponential(size=31)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(list(values), share) == pytest.approx(np.quantile(values, share))


def test_the_interval_of_a_ratio_holds_its_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        found = ratio(list(random.lognormal(0.3, 0.2, size=50)), [1.0] * 50)
        assert found.low <= found.median <= found.high
        held += found.low <= np.exp(0.3) <= found.high
    assert 930 <= held <= 985


def test_a_ratio_compares_round_by_round() -> None:
    drifting = [1.0, 2.0, 4.0, 8.0]
    assert ratio([3 * value for value in drifting], drifting) == pytest.approx((3, 3, 3))


def test_a_ratio_beside_scipys_signed_ranks() -> None:
    """Exactly the ratios that Wilcoxon's test does not refuse lie in the interval."""
    from scipy.stats import wilcoxon  # not at the top: machines with a GPU may lack it

    random = np.random.default_rng(2)
    above, below = random.lognormal(0.2, 0.1, 20), random.lognormal(0, 0.1, 20)
    found = ratio(list(above), list(below))
    for edge in (found.low, found.high):
        refused = [
            wilcoxon(np.log(above / below / (edge * slip))).pvalue < 0.05 for slip in (0.999, 1.001)
        ]
        assert sorted(refused) == [False, True]
    logs = np.log(above / below)
    means = [(logs[i] + logs[j]) / 2 for i in range(20) for j in range(i, 20)]
    assert found.median == pytest.approx(np.exp(np.median(means)))


def test_everyone_stands_everywhere_and_beside_everyone() -> None:
    orders = turns(["a", "b", "c"], 600)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    for place in range(3):
        assert [order[place] for order in orders].count("a") == pytest.approx(200, abs=50)
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert len(followers) == 6
    assert all(count == pytest.approx(200, abs=50) for count in followers.values())
    assert orders[:6] == turns(["a", "b", "c"], 6)


class Clock:
    """A device that is busy as long as what runs on it says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flushes = 0

    def run(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds

        return work

    def event(self) -> "Moment":
        return Moment(self)


class Moment:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.time = clock, -1.0

    def record(self) -> None:
        self.time = self.clock.now

    def elapsed_time(self, end_event: "Moment") -> float:
        return (end_event.time - self.time) * 1e3


def test_what_runs_before_is_in_nobodys_time() -> None:
    clock = Clock()
    runs = {"a": clock.run(1.0), "b": clock.run(2.0)}
    times = interleave(runs, 3, clock.run(50.0), clock.event, lambda: None)
    assert times == {"a": pytest.approx([1.0] * 3), "b": pytest.approx([2.0] * 3)}
    assert clock.now == 3 * 103


def test_short_calls_share_a_replay() -> None:
    assert [calls_a_replay(s) for s in (1e-6, 1e-5, 3e-4, 1.0)] == [100, 100, 3, 1]


# Comparing, with a clock in place of the GPU.


def answered(
    clock: Clock, name: str, seconds: float, answer: float = 1.0, layout: str = ""
) -> KernelImplementation:
    def build() -> Callable[[], Tensor]:
        def run() -> Tensor:
            clock.run(seconds)()
            return torch.full((2,), answer)

        return run

    return KernelImplementation(
        name, layout, build, path=lambda: "triton" if name == OURS else "peer"
    )


def refusing() -> Callable[[], Tensor]:
    raise RuntimeError("No available kernel. Aborting\nand more")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def capture(function: Callable[[], object], calls: int) -> Callable[[], None]:
        def replay() -> None:
            for _ in range(calls):
                function()

        return replay

    def in_turns(
        runs: dict[str, Callable[[], object]],
        rounds: int,
        before: Callable[[], object] | None = None,
    ) -> dict[str, list[float]]:
        return interleave(runs, rounds, before, clock.event, lambda: None)

    monkeypatch.setattr(gpu_compare, "capture", capture)
    monkeypatch.setattr(gpu_compare, "interleave_on_device", in_turns)

    def flush() -> None:
        clock.flushes += 1

    monkeypatch.setattr(gpu_compare, "flusher", lambda: flush)
    return clock


def test_rows_of_a_comparison(clock: Clock) -> None:
    comparison = Comparison(
        kernel="masked_attention",
        shape={"B": 8, "N": 197},
        dtype=torch.bfloat16,
        flop=8e9,
        bytes=16e6,
        exact=lambda: torch.ones(2).double(),
        contenders=[
            answered(clock, OURS, 2e-5),
            answered(clock, "peer", 6e-5, layout="slow"),
            answered(clock, "peer", 3e-5, layout="fast"),
            KernelImplementation("peer", "refused", refusing),
            answered(clock, "wrong", 1e-6, answer=1.2),
            KernelImplementation("absent", "any", refusing),
        ],
    )
    rows = {(row.contender, row.cache): row for row in compare(comparison, CEILINGS, ON_GPU)}
    assert set(rows) == {
        *((name, cache) for name in (OURS, "peer") for cache in ("warm", "cold")),
        *((name, "") for name in ("wrong", "absent")),
    }
    # Before each run with a cold cache, of ours, ours again and the peer.
    assert clock.flushes == 3 * gpu_compare.ROUNDS["cold"]
    assert "wrong, error 0.2" in rows["wrong", ""].status
    assert rows["absent", ""].status.endswith("RuntimeError: No available kernel. Aborting")
    ours, peer = rows[OURS, "warm"], rows["peer", "warm"]
    assert peer.layout == "fast"
    assert (ours.path, peer.path) == ("triton", "peer")
    assert ours.method == "CUDA graph of 50"
    assert rows[OURS, "cold"].method == "CUDA graph of 1"
    assert ours.median_us == pytest.approx(20)
    assert peer.ratio == pytest.approx(1.5)
    assert ours.noise_low == pytest.approx(1)
    # 8e9 FLOP at 8e14 a second are 10 µs, 16e6 bytes at 4e12 only 4.
    assert ours.predicted_us == pytest.approx(10)
    assert ours.roofline_share == pytest.approx(0.5)
    assert ours.tflops == pytest.approx(400)
    assert ours.gbs == pytest.approx(800)
    assert ours.error == 0
    assert (ours.shape, ours.dtype, ours.device) == ("B8 N197", "bfloat16", "NVIDIA H200")


# Rows, goals, picture.


def row(
    kernel: str, shape: str, contender: str, median: float | None, times: float = 1.0
) -> KernelTiming:
    comparison = Comparison(kernel, {"of": shape}, torch.bfloat16, 1e12, 1e8, torch.ones, [])
    blank = missing_row(
        comparison, KernelImplementation(contender, "", refusing), "", CEILINGS, ON_GPU
    )
    if median is None:
        return replace(blank, status="not measured: RuntimeError: No available kernel")
    path = "triton" if contender.startswith(OURS) else "peer"
    return replace(
        blank, status="measured", cache="warm", path=path, rounds=50, error=3e-3,
        median_us=median, p10_us=0.97 * median, p90_us=1.08 * median,
        predicted_us=0.6 * median / times, roofline_share=0.6 / times,
        ratio=times, ratio_low=0.99 * times, ratio_high=1.01 * times,
    )  # fmt: skip


def found(
    efficient: float = 1.6, flex_ratio: float = 2.0, no_bias: float = 0.98
) -> list[KernelTiming]:
    rows = []
    for shape in GOAL_SHAPES:
        for name, times in {
            OURS: 1.0,
            f"{OURS}, no bias": no_bias,
            "SDPA efficient": efficient,
            "FlexAttention": flex_ratio,
            "SDPA math": 0.5,
        }.items():
            rows.append(row("masked_attention", shape, name, 100 * times, times))
        rows.append(row("masked_attention", shape, "SDPA cuDNN", None))
    for shape, times in {"stage 1": 3.0, "stage 3": 1.7}.items():
        rows.append(row("window_attention", shape, OURS, 50))
        rows.append(row("window_attention", shape, "SAM2's own", 50 * times, times))
    rows.append(row("hard focus", "ViT", OURS, 9e3))
    rows.append(row("hard focus", "ViT", f"{OURS}, all tokens", 2e4, 2.2))
    return rows


def verdicts(rows: list[KernelTiming]) -> list[str]:
    return [goal.verdict(rows) for goal in goals()]


def test_goals_that_are_met() -> None:
    assert verdicts(found()) == ["met"] * 6


def test_the_fastest_peer_counts_and_plain_math_does_not() -> None:
    assert verdicts(found(efficient=3.0, flex_ratio=1.2))[:3] == ["met", "not met", "met"]
    figure = goals()[0].figure(found(flex_ratio=1.2))
    assert figure.value is not None
    assert figure.value.median == pytest.approx(1.2)
    assert figure.note == "FlexAttention; without SDPA cuDNN"


def test_a_bias_that_costs_is_seen() -> None:
    assert verdicts(found(no_bias=0.96))[3] == "met"
    assert verdicts(found(no_bias=0.94))[3] == "not met"


def test_the_worst_window_counts() -> None:
    rows = [*found(), row("window_attention", "stage 4", OURS, 9)]
    rows.append(row("window_attention", "stage 4", "SAM2's own", 12, 1.4))
    assert verdicts(rows)[4] == "not met"


def test_what_is_missing_is_not_measured() -> None:
    assert verdicts([]) == ["not measured"] * 6
    without = [r for r in found() if r.kernel != "hard focus" and "N577" not in r.shape]
    expected = ["met", "met", "not measured", "not measured", "met", "not measured"]
    assert verdicts(without) == expected
    cold = [replace(r, cache="cold") for r in found() if r.measured]
    assert verdicts(cold) == ["not measured"] * 6


def test_pytorch_in_our_place_meets_no_goal() -> None:
    rows = [replace(r, path="torch") if r.contender == OURS else r for r in found()]
    assert verdicts(rows) == ["not measured"] * 6


def test_the_table_names_another_device() -> None:
    table = goals_table(found(efficient=1.1), "NVIDIA L40S")
    assert "(this is NVIDIA L40S)" in table
    assert "≥ 1.30" in table
    assert "1.10 [1.09, 1.11]  not met" in table
    assert "(this" not in goals_table([], "NVIDIA H200")


def test_a_goal_that_is_not_met_is_a_problem_on_its_own_device() -> None:
    assert list(missed(found(), "NVIDIA H200")) == []
    rows = [r for r in found(no_bias=0.9) if r.kernel != "hard focus"]
    assert [problem.partition(":")[0] for problem in missed(rows, "NVIDIA H200")] == [
        "goal not met",
        "goal not measured",
    ]
    assert list(missed(rows, "NVIDIA L40S")) == []
    assert list(missed(rows, None)) == []


def test_rows_are_written_and_read(tmp_path: Path) -> None:
    rows = found()
    write_rows(tmp_path, rows, ON_GPU)
    listed = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [KernelTiming(**values) for values in listed] == rows
    lines = (tmp_path / "gpu_check.csv").read_text().splitlines()
    assert len(lines) == len(rows) + 1
    assert {"error", "driver", "revision", "predicted_us"} <= set(lines[0].split(","))


def test_the_picture_has_a_panel_a_comparison(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    assert plot(found(), tmp_path / "all.png") is None
    assert plot(found()[:6], tmp_path / "one.png") is None
    heights = [plt.imread(tmp_path / name).shape[0] for name in ("all.png", "one.png")]
    assert heights[0] > 1.5 * heights[1] > 300
    assert plot([row("k", "s", "peer", None)], tmp_path / "none.png") == "no row was measured"


def test_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot(found(), tmp_path / "a.png") == "matplotlib is not installed"


# The tests' processes.


def test_shares_hold_every_test_once() -> None:
    for index in range(200):
        assert sum(in_share(index, f"{number}/3") for number in range(3)) == 1


def repository(tmp_path: Path, text: str) -> Path:
    (tmp_path / "tests/kernels").mkdir(parents=True)
    (tmp_path / "tests/kernels/test_it.py").write_text(text)
    for other in (*MODELS_ON_KERNELS, PIPELINE_ON_STREAMS):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: a\n    slow: b\n")
    return tmp_path


def test_tests_are_shared_and_counted(tmp_path: Path) -> None:
    text = (
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(40))\n"
        "def test_a(n): assert n != 33\n"
        "@pytest.mark.skip(reason='of words')\ndef test_b(): pass\n"
        "@pytest.mark.slow\ndef test_c(): assert False\n"
        "@pytest.mark.slow\n@pytest.mark.gpu\ndef test_d(): pass\n"
    )
    outcome = run_tests(repository(tmp_path, text), tmp_path, 60, processes=2)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (40, 1, 1)
    assert outcome.failures == ["tests/kernels/test_it.py::test_a[33]"]
    assert not outcome.troubles
    assert not outcome.fine


@pytest.fixture
def ignoring_interrupts() -> Iterator[None]:
    """As a shell's background jobs do, and what they start."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ignoring_interrupts")
def test_tests_stop_at_their_limit_and_keep_what_was_done(tmp_path: Path) -> None:
    text = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n"
    began = time.monotonic()
    outcome = run_tests(repository(tmp_path, text), tmp_path, 8, processes=1)
    assert time.monotonic() - began < 30
    assert outcome.passed == 1
    assert outcome.troubles == ["stopped at the time limit: 1 of 1 processes were not done"]


def test_last_words_are_limited_for_all_processes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tests, "LAST_WORDS", 4)
    text = (
        "import pytest, signal, time\n"
        "@pytest.mark.parametrize('n', range(17))\n"
        "def test_a(n):\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    time.sleep(60)\n"
    )
    root, began = repository(tmp_path, text), time.monotonic()
    outcome = run_tests(root, tmp_path, 5, processes=2)
    assert time.monotonic() - began < 12  # 13 with one's last words after the other's
    assert outcome.troubles[0].startswith("stopped at the time limit: 2 of 2")


def test_no_tests_are_no_success(tmp_path: Path) -> None:
    outcome = run_tests(tmp_path, tmp_path, 5)
    assert not outcome.fine
    assert "holds no tests" in outcome.troubles[0]


def test_models_that_cannot_be_tested_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tests, "UPSTREAM", ("sam2", "nowhere_at_all"))
    root = repository(tmp_path, "def test_a(): pass\n")
    (root / MODELS_ON_KERNELS[0]).write_text("def test_b(): assert False\n")
    outcome = run_tests(root, tmp_path, 60, processes=1)
    assert (outcome.passed, outcome.failed) == (1, 0)
    assert outcome.troubles == ["nowhere_at_all is not installed: models and pipeline untested"]


# The command.


@no_gpu
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/pipeline.json").write_text("of an earlier run, and no JSON")
    assert gpu_check.main([str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "There is no GPU" in said
    assert said.count("not measured") == 6 + len(GOALS)
    rows = json.loads((tmp_path / "new/gpu_check.json").read_text())
    assert rows[0]["status"] == "not measured: no GPU"
    assert rows[0]["versions"]["torch"] == torch.__version__


class Parts:
    """Stands for the processes of all parts; some leave a file, all others fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.begun: list[str] = []
        self.leaves: dict[str, tuple[str, str]] = {}
        monkeypatch.setattr(gpu_check, "start_part", self.start)
        monkeypatch.setattr(gpu_check, "run_tests", lambda *_: run_tests(tmp_path, tmp_path, 1))
        monkeypatch.setattr(gpu_check, "warm_ups", lambda _: {})
        monkeypatch.setattr(gpu_check, "sanitize", lambda *_: [])

    def start(self, part: str, out: Path, limit: float) -> str | None:
        self.begun.append(part)
        if part not in self.leaves:
            return f"{part}: failed"
        name, text = self.leaves[part]
        (out / name).write_text(text)
        return None


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parts:
    return Parts(monkeypatch, tmp_path)


def test_a_part_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: Parts
) -> None:
    lines = [json.dumps(r.__dict__) for r in found() if r.kernel == "window_attention"]
    parts.leaves["windows"] = ("part-windows.jsonl", "\n".join(lines) + "\n")
    assert gpu_check.check(tmp_path, ON_GPU) == 1
    assert parts.begun == [gpu_check.PIPELINE, gpu_check.CEILINGS, *gpu_check.comparisons()]
    said = capsys.readouterr().out
    assert "PROBLEM attention: failed" in said
    assert "PROBLEM tests:" in said
    assert said.count("PROBLEM goal not measured:") == 5
    assert "PROBLEM pipeline: failed" in (tmp_path / "goals.txt").read_text()
    assert len(json.loads((tmp_path / "gpu_check.json").read_text())) == 4
    assert (tmp_path / "gpu_check.png").exists()


@pytest.mark.parametrize("idle", [0.04, 0.06])
def test_the_pipelines_goals_are_in_the_table_and_in_the_exit_status(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    parts: Parts,
    idle: float,
) -> None:
    values = GOALS | {"idle share of the GPU": idle}
    left = {"goals": values, "problems": [], "not_reached": []}
    parts.leaves = dict.fromkeys(gpu_check.LIMITS, ("part-attention.jsonl", ""))
    parts.leaves["pipeline"] = ("pipeline.json", json.dumps(left))
    lines = "\n".join(json.dumps(r.__dict__) for r in found())
    parts.leaves["small kernels"] = ("part-small-kernels.jsonl", lines)
    fine = gpu_tests.Outcome(9, 0, 0, [], [])
    monkeypatch.setattr(gpu_check, "run_tests", lambda *_: fine)
    monkeypatch.setattr(gpu_check, "source_problems", lambda _: [])
    assert gpu_check.check(tmp_path, ON_GPU) == (idle > 0.05)
    said = capsys.readouterr().out
    assert ("PROBLEM goal not met: idle share of the GPU" in said) == (idle > 0.05)
    assert said.count("  met") == 6 + len(GOALS) - (idle > 0.05)
    assert "  0.950  met" in (tmp_path / "goals.txt").read_text()


def test_nothing_of_an_earlier_run_seems_to_be_of_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: Parts
) -> None:
    old = ["pipeline.json", "part-ceilings.jsonl", "gpu_check.csv", "gpu_check.png", "tests-9.log"]
    for name in (*old, "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert gpu_check.check(tmp_path, ON_GPU) == 1
    assert not [name for name in old if (tmp_path / name).exists()]
    assert (tmp_path / "notes.txt").exists()
    assert "PROBLEM pipeline: failed" in capsys.readouterr().out


def test_a_comparison_that_cannot_be_made_stops_no_other(
    tmp_path: Path,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Comparison:
        raise ModuleNotFoundError("No module named 'sam2'")

    def small(ours: float) -> Callable[[], Comparison]:
        contenders = [answered(clock, OURS, 1e-5, ours), answered(clock, "peer", 2e-5)]
        exact = torch.ones(2).double()
        return lambda: Comparison(
            "kernel", {"B": 1}, torch.float32, 1.0, 1.0, lambda: exact, contenders
        )

    parts = {"windows": [missing, small(1.0)], "attention": [small(1.0)], "hard focus": [small(2)]}
    monkeypatch.setattr(gpu_check, "comparisons", lambda: parts)
    assert gpu_check.run_part("windows", tmp_path, ON_GPU) == 1
    assert "ceilings were not measured" in capsys.readouterr().out
    gpu_check.result_file(tmp_path, "ceilings").write_text(json.dumps(CEILINGS._asdict()))
    assert gpu_check.run_part("windows", tmp_path, ON_GPU) == 1
    assert "windows: ModuleNotFoundError: No module named 'sam2'" in capsys.readouterr().out
    assert len(gpu_check.read_rows(tmp_path)) == 4
    assert gpu_check.run_part("attention", tmp_path, ON_GPU) == 0
    assert len(gpu_check.read_rows(tmp_path)) == 8
    assert gpu_check.run_part("hard focus", tmp_path, ON_GPU) == 1  # ours is wrong


def test_it_starts_without_upstreams_packages() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['sam2', 'open_clip', 'matplotlib']));"
        "import medfocus.benchmarks.gpu.check"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@no_gpu
def test_a_parts_process_that_dies_or_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_check.start_part("ceilings", tmp_path, 60) == ("ceilings: failed with exit status 1")
    assert gpu_check.start_part("ceilings", tmp_path, 0.2) == (
        "ceilings: stopped at its time limit of 0 s"
    )
    assert gpu_check.start_part("windows", tmp_path, -1.0) == (
        "windows: not begun, the time was used up"
    )
    monkeypatch.setattr(gpu_tests, "UPSTREAM", ("sam2", "nowhere_at_all"))
    assert gpu_check.start_part("pipeline", tmp_path, 60) == (
        "pipeline: not measured, nowhere_at_all not installed"
    )


def test_every_part_has_a_limit_and_all_fit_the_budget() -> None:
    kernels = list(gpu_check.comparisons())
    named = [gpu_check.TESTS, gpu_check.PIPELINE, gpu_check.CEILINGS, *kernels]
    assert list(gpu_check.LIMITS) == [*named, gpu_check.SANITIZER]
    assert gpu_check.AROUND + sum(gpu_check.LIMITS.values()) <= gpu_check.BUDGET
    assert gpu_check.BUDGET <= 9 * 60
    assert gpu_check.LIMITS[gpu_check.TESTS] > 4 * gpu_tests.LAST_WORDS
    assert gpu_check.LIMITS[gpu_check.PIPELINE] == max(gpu_check.LIMITS.values())


def test_a_part_is_kept_what_it_is_promised_and_gets_what_others_left() -> None:
    elapsed = 0.0
    for part, limit in gpu_check.LIMITS.items():  # each takes all that it may
        allowed = gpu_check.allowance(part, elapsed)
        assert allowed >= limit
        elapsed += allowed
    assert elapsed <= gpu_check.BUDGET - gpu_check.AROUND
    spared = gpu_check.LIMITS["tests"] - 50
    assert gpu_check.allowance("pipeline", 50.0) >= gpu_check.LIMITS["pipeline"] + spared


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "gpu-check", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@no_gpu
def test_make_takes_the_interpreter_it_is_given(tmp_path: Path) -> None:
    done = make(f"OUT={tmp_path / 'out'}", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert "There is no GPU" in done.stdout
    assert (tmp_path / "out/goals.txt").read_text().count("not measured") == 6 + len(GOALS)


def test_make_says_how_to_install_what_is_missing(tmp_path: Path) -> None:
    # -I and -S: neither PYTHONPATH nor installed packages.
    done = make(f"OUT={tmp_path / 'out'}", f"PYTHON={sys.executable} -I -S")
    assert done.returncode == 2
    assert "--no-deps --no-build-isolation --target DIR ." in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@needs_gpu
def test_a_comparison_on_the_gpu() -> None:
    comparison = masked(8, 4, 197, 64, torch.bfloat16, "cuda")
    keep = [c for c in comparison.contenders if c.name in (OURS, "SDPA efficient", "SDPA math")]
    rows = list(compare(replace(comparison, contenders=keep), CEILINGS, ON_GPU))
    assert {(r.contender, r.cache) for r in rows if r.measured} >= {(OURS, "warm"), (OURS, "cold")}
    assert all(r.path == "triton" for r in rows if r.contender == OURS)
