"""The search for the fastest tiles, with a stand-in for the compiler, the GPU and the clock."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from medfocus.kernels import tile as tiles
from medfocus.kernels.compiler import Compiled
from medfocus.kernels.tile import Tile, TileKey, table
from medfocus.kernels.tuning import tune
from medfocus.kernels.tuning.candidates import Outcome
from medfocus.kernels.tuning.case import Case
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.search import BLOCKS, STAGES, Entry, entry, search

FITS = Compiled(64, 0, 0, 16384, {"HGMMA": 1}, 0)
MASKED = TileKey("masked_attention", 90, 16, 64, 1)
WINDOWS = TileKey("window_attention", 90, 16, 96, 0)
UNUSED = TileKey("masked_attention", 90, 16, 32, 0)  # no preset launches it

Trouble = Callable[[TileKey, Tile, int], str | None]


def request(trouble: Trouble = lambda key, tile, number: None):
    """A compiler for which all candidates fit, except those that are in trouble."""

    def compile_all(
        key: TileKey, candidates: Sequence[Tile], numbers: Sequence[int]
    ) -> Callable[[], dict[Tile, Outcome]]:
        def outcome(tile: Tile) -> Outcome:
            reasons = [reason for n in numbers if (reason := trouble(key, tile, n))]
            return reasons[0] if reasons else dict.fromkeys(numbers, FITS)

        return lambda: {tile: outcome(tile) for tile in candidates}

    return compile_all


def distance(tile: Tile, best: Tile) -> float:
    """A landscape with one valley."""
    sizes = abs(math.log2(tile.block_m / best.block_m)) + abs(
        math.log2(tile.block_n / best.block_n)
    )
    return 1 + sizes + (tile.warps != best.warps) + 0.1 * abs(tile.stages - best.stages)


def run(keys: list[TileKey], timer: Callable[[Case], float], **options) -> list[Entry]:
    entries = [entry(key, table()[key]) for key in keys]
    asks = options.get("request", request())
    list(search(entries, asks, timer, options.get("expired", lambda: False)))
    return entries


@pytest.mark.parametrize("best", [Tile(128, 64, 4, 4), Tile(64, 128, 8, 1), Tile(64, 64, 8, 3)])
def test_the_fastest_of_all_candidates_is_found(best: Tile) -> None:
    (found,) = run([MASKED], lambda case: 1e-4 * distance(case.tile, best))
    every = [Tile(*block, stages) for block in BLOCKS[16] for stages in STAGES]
    assert found.best == best == min(every, key=lambda tile: distance(tile, best))
    assert found.before in found.seconds


def test_what_models_launch_comes_first_by_its_gain() -> None:
    """Windows are slow here, by far; the third entry is slower still, but launched by no model."""
    seconds = {"masked_attention": 1e-3, "window_attention": 1e-1}
    entries = [entry(key, table()[key]) for key in (UNUSED, MASKED, WINDOWS)]
    yielded = [
        found.key
        for found in search(
            entries,
            request(),
            lambda case: 1.0 if case.shape["D"] == 32 else seconds[case.kernel],
            lambda: False,
        )
    ]
    assert yielded == [WINDOWS, MASKED, WINDOWS, MASKED, UNUSED, UNUSED]


def test_a_present_tile_that_does_not_run_is_the_first_to_be_replaced() -> None:
    present = table()[MASKED]

    def timer(case: Case) -> float:
        if case.kernel == MASKED.kernel and case.tile == present:
            raise RuntimeError
        return 1e-3

    entries = [entry(key, table()[key]) for key in (WINDOWS, MASKED)]
    first = next(iter(search(entries, request(), timer, lambda: False)))
    assert first.key == MASKED
    assert first.best not in (None, present)
    assert first.left_out[present] == "RuntimeError"


def test_candidates_that_fail_or_are_wrong_are_left_out() -> None:
    """The fastest does not compile, the next does not launch, the third is wrong."""
    spills, fails, wrong = Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)

    def timer(case: Case) -> float:
        if case.tile == fails:
            raise RuntimeError
        if case.tile == wrong:
            return math.inf
        return 1e-6 if case.tile == spills else 1e-4

    asks = request(lambda key, tile, number: "spills" if tile == spills else None)
    (found,) = run([MASKED], timer, request=asks)
    assert {*found.left_out} >= {spills, fails, wrong}
    assert found.best not in (None, spills, fails, wrong)


def test_a_tile_must_fit_the_cases_that_no_preset_launches() -> None:
    """Hiera-L's, with D = 72, are number 5 and later."""
    asks = request(
        lambda key, tile, number: "spills" if number > 4 and tile.block_n == 128 else None
    )
    timer = lambda case: 1e-5 if case.tile.block_n == 128 else 1e-4  # noqa: E731
    (found,) = run([WINDOWS], timer, request=asks)
    assert found.best is not None
    assert found.best.block_n != 128
    assert "spills" in found.left_out.values()


@pytest.mark.parametrize("launches", [0, 1, 5, 30, 60])
def test_a_search_that_is_stopped_leaves_a_valid_table(
    launches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is the number of launches that were timed."""
    count = 0

    def timer(case: Case) -> float:
        nonlocal count
        count += 1
        return 1e-4 * distance(case.tile, Tile(64, 64, 4, 3))

    modelled = dict(table())
    keys = [key for key in modelled if key.architecture == 90]
    path = tmp_path / "some-card.json"
    head = {"by": "timing"}
    tune.measured(
        keys, request(), timer, lambda: launches - count, lambda rows: tune.write(path, head, rows)
    )
    rows = json.loads(path.read_text())["rows"]
    # One launch has up to five cases.
    assert launches <= count <= launches + 4
    assert len(rows) <= launches
    for row in rows:
        key = TileKey(**{name: row[name] for name in TileKey.__dataclass_fields__})
        times = {tuple(tile): seconds for *tile, seconds in row["candidates"]}
        assert tuple(row["tile"].values()) in times
        assert entry(key, modelled[key]).known
    (tmp_path / "modelled.json").write_text(
        (Path(tiles.__file__).parent / "tiles/modelled.json").read_text()
    )
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path.parent)
    monkeypatch.setattr(tiles, "TABLES", tmp_path.name)
    overridden = table.__wrapped__()
    assert {*overridden} == {*modelled}
    changed = {key for key in modelled if overridden[key] != modelled[key]}
    assert {key.architecture for key in changed} <= {90}


# What compiles a launch of every kernel beforehand, in other processes; then the launch's own
# compilation, of which nothing may be left to do.
COMPILED_AHEAD = """
import os
from pathlib import Path
from triton.runtime.jit import JITFunction
from medfocus.kernels.compiler import Compiled
from medfocus.kernels.tile import Tile, TileKey
from medfocus.kernels.tuning.candidates import compile_for_launches, compiling
from medfocus.kernels.tuning.cases import CASES

def cached():
    return {file.name for file in Path(os.environ["TRITON_CACHE_DIR"]).iterdir()}

def run(function, *arguments, grid, warmup, launched=JITFunction.run, **options):
    return launched(function, *arguments, grid=grid, warmup=True, **options)

if __name__ == "__main__":
    tile = Tile(64, 32, 4, 3)
    keys = [TileKey(kernel, 90, 16, 64, 1) for kernel in CASES]
    with compiling(90, 1, lambda: 600.0) as request:
        for outcomes in [request(key, [tile], [0]) for key in keys]:
            outcome = outcomes()[tile]
            assert isinstance(outcome[0], Compiled), outcome
    ahead = cached()
    compile_for_launches(90)
    JITFunction.run = run
    for key in keys:
        CASES[key.kernel](key, tile)[0].prepare("cpu", 1).run()
    assert ahead and cached() == ahead
"""


def test_a_launch_finds_what_was_compiled_ahead(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(COMPILED_AHEAD)
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("key", [MASKED, WINDOWS], ids=str)
def test_launches_are_right_and_timed_on_a_gpu(key: TileKey) -> None:
    for case in CASES[key.kernel](key, Tile(64, 64, 4, 2)):
        assert 0 < tune.time_on_gpu(case) < math.inf
