"""How tiles are cut, chosen and modelled, compared with counts made by hand."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.errors import InputError
from medfocus.kernels import tile as tiles
from medfocus.kernels.attention_tiles import cut, tail
from medfocus.kernels.compiler import Compiled
from medfocus.kernels.tile import Tile, TileKey, band, choose, table
from medfocus.kernels.tuning import modelled, tune
from medfocus.kernels.tuning.case import Case, attention_cost
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.roofline import (
    CARDS,
    modelled_seconds,
    programs_per_multiprocessor,
    roofline_seconds,
)
from tests.errors import refuses


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 128), st.sampled_from([torch.bfloat16, torch.float32]))
def test_a_heads_two_parts_cover_it_at_the_least_cost(width: int, dtype: torch.dtype) -> None:
    powers = [16, 32, 64, 128]
    narrow = powers[1:] if dtype == torch.float32 else powers
    pairs = itertools.product(powers, [0, *narrow])
    ways = [(a, b) for a, b in pairs if width <= a + b and a >= b]
    main, rest = cut(width, dtype)
    assert (main, rest) in ways
    assert main + rest == min(map(sum, ways))


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 5000), st.sampled_from([16, 32, 64, 128]))
def test_the_last_tile_covers_what_the_full_tiles_leave(size: int, block: int) -> None:
    left = size % block
    side = tail(size, block, torch.float16)
    assert side == next(t for t in (0, 16, 32, 64, 128) if t >= left)
    assert side <= block
    assert tail(size, block, torch.float32) == (block if left else 0)


def test_the_cost_of_attention() -> None:
    """197 = 128 + 69 queries, 3·64 + 5 keys, as in the kernel's docstring."""
    cost = attention_cost(3072, 197, 197, 72, torch.bfloat16, Tile(128, 64, 8, 2))
    assert cost.flop == 3072 * 2 * 2 * 197 * 197 * 72
    assert cost.logits == 3072 * 256 * 208
    assert cost.computed_flop == 3072 * 2 * 2 * 256 * 208 * 80
    assert cost.programs == 3072 * 2
    assert cost.bytes == 3072 * 4 * 197 * 72 * 2
    assert cost.l2_bytes == 3072 * (2 + 2 * 2) * 197 * 72 * 2
    assert cost.matrix_slowdown == 1


def compiled(registers: int, shared_bytes: int, spills: int = 0) -> Compiled:
    return Compiled(registers, spills, 0, shared_bytes, {}, 0)


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "warps", "expected"),
    [
        (128, 0, 8, 2),  # 65536 registers / (128 · 256)
        (129, 0, 8, 1),  # allocated as 136
        (32, 60_000, 4, 3),  # 233472 bytes / 61024
        (16, 0, 16, 4),  # 64 warps
        (16, 232_449, 4, 0),  # more than one program may have
    ],
)
def test_programs_per_multiprocessor(
    registers: int, shared_bytes: int, warps: int, expected: int
) -> None:
    found = programs_per_multiprocessor(compiled(registers, shared_bytes), warps, CARDS[90])
    assert found == expected


def test_the_roofline_of_the_first_goal() -> None:
    """(256, 12, 197, 64) in bfloat16 moves 310 MB: 72 µs at 4.3 TB/s, longer than its products."""
    cost = attention_cost(3072, 197, 197, 64, torch.bfloat16, Tile(128, 64, 8, 2))
    assert roofline_seconds(cost, CARDS[90]) == pytest.approx(309.9e6 / 4.3e12, rel=1e-3)
    assert modelled_seconds(cost, compiled(122, 49408), 8, CARDS[90]) > 72e-6


def test_bands() -> None:
    assert [band(n) for n in (1, 64, 65, 224, 225, 320, 640, 641, 9999)] == [
        *(0, 0, 1, 1, 2, 2, 3, 4, 4)
    ]


def test_an_unknown_architecture_uses_the_nearest_older_one() -> None:
    for unknown, known in ((86, 80), (87, 80), (103, 100), (121, 120), (75, 80)):
        for tokens in (50, 197, 257, 577, 4096):
            assert choose("masked_attention", tokens, 64, torch.float16, unknown) == choose(
                "masked_attention", tokens, 64, torch.float16, known
            )


def test_a_measured_table_overrides_the_modelled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = (
        TileKey("masked_attention", 90, 16, 64, 1),
        TileKey("masked_attention", 80, 16, 64, 1),
    )
    rows = [modelled.row(k, Tile(64, 64, 4, 2), 1e-6, "modelled") for k in (key, other)]
    tune.write(tmp_path / "modelled.json", {"by": "model"}, rows)
    tune.write(
        tmp_path / "a-card.json", {"by": "timing"}, [modelled.row(key, Tile(8, 8, 1, 1), 1e-6, "m")]
    )
    (tmp_path / "notes.txt").write_text("not a table")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path.parent)
    monkeypatch.setattr(tiles, "TABLES", tmp_path.name)
    found = table.__wrapped__()
    assert found == {key: Tile(8, 8, 1, 1), other: Tile(64, 64, 4, 2)}


def test_the_shipped_table_says_how_it_was_made() -> None:
    shipped = Path(tiles.__file__).parent / "tiles"
    for file in shipped.glob("*.json"):
        made = json.loads(file.read_text())["made"]
        assert made["by"] in ("model", "timing")
        assert made["triton"]


@pytest.fixture
def no_compiled_candidates() -> Iterator[None]:
    """Tuning caches the candidates that it compiled."""
    modelled._compile_candidates.cache_clear()
    yield
    modelled._compile_candidates.cache_clear()


@pytest.mark.usefixtures("no_compiled_candidates")
def test_tuning_never_chooses_a_tile_that_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """All candidates spill except those of 32 keys."""
    monkeypatch.setattr(modelled, "CASES", {"masked_attention": CASES["masked_attention"]})
    monkeypatch.setattr(
        Case,
        "compile",
        lambda case, architecture: compiled(64, 0, spills=int(case.tile.block_n != 32)),
    )
    rows = [row for group in modelled.groups(90) for row in modelled.modelled(group)]
    assert len(rows) == (4 + 4) * 5
    assert all(row["tile"]["block_n"] == 32 for row in rows)


@pytest.mark.usefixtures("no_compiled_candidates")
def test_fewer_rows_than_the_instruction_has_are_the_last_resort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Hopper; Ampere's instruction has 16 rows, so that all candidates compete there."""
    group = TileKey("masked_attention", 90, 32, 64, modelled.RANKING_BAND)
    monkeypatch.setattr(Case, "compile", lambda case, architecture: compiled(64, 0))
    assert all(row["tile"]["block_m"] == 64 for row in modelled.modelled(group))
    modelled._compile_candidates.cache_clear()
    spilling = lambda case, _: compiled(64, 0, spills=int(case.tile.block_m > 16))  # noqa: E731
    monkeypatch.setattr(Case, "compile", spilling)
    assert all(row["tile"]["block_m"] == 16 for row in modelled.modelled(group))


@pytest.mark.usefixtures("no_compiled_candidates")
def test_an_entry_that_no_candidate_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "compile", lambda case, architecture: compiled(64, 0, spills=1))
    with refuses(InputError, "kernel.no_tile_fits", "masked_attention"):
        modelled.modelled(modelled.groups(90)[0])


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(kernel, marks=[pytest.mark.long] if kernel == "window_attention" else [])
        for kernel in CASES
    ],
)
def test_the_launches_that_tuning_times_are_right(kernel: str) -> None:
    """With one image."""
    cases = CASES[kernel](TileKey(kernel, 90, 32, 32, 0), Tile(32, 32, 4, 2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # the interpreter takes a minute for SAM2's larger grids
        cases = [min(cases, key=lambda case: case.cost.flop)]
    for case in cases:
        assert case.prepare is not None
        assert case.prepare(device, 1).is_accurate()
