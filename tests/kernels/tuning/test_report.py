"""Every kernel and table entry, compiled without a GPU."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from medfocus.kernels.tile import BANDS, table
from medfocus.kernels.tuning.cases import CASES
from medfocus.kernels.tuning.fixed_cases import FIXED_CASES
from medfocus.kernels.tuning.roofline import CARDS

# Triton compiles only outside its interpreter, in which the other tests run.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT
    )


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """The report's rows; the exit status says that it found no problem."""
    done = python("-m", "medfocus.kernels.tuning.report", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_entry_compiles(rows: list[dict[str, Any]]) -> None:
    assert {row["kernel"] for row in rows} == {*CASES, *FIXED_CASES}
    for architecture in CARDS:
        entries = sum(key.architecture == architecture for key in table())
        assert sum(row["arch"] == architecture for row in rows) >= entries + len(FIXED_CASES)


@pytest.mark.long
def test_nothing_spills_and_everything_fits(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["spills"] == 0, row
        assert 0 < row["registers"] <= 255, row
        assert row["shared_bytes"] <= CARDS[row["arch"]].shared_limit, row
        assert row["programs"] >= 1, row


@pytest.mark.long
def test_matrix_products_are_on_tensor_cores(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert not row["problems"], row
        if row["kernel"] in ("cls_attention", "resize"):
            assert not row["mma"], row  # one query row is no matrix, and pixels are integers
        elif row["arch"] == 90 and row["tile"]["block_m"] >= 64:
            assert row["mma"].get("HGMMA"), row
        else:
            assert row["mma"], row


@pytest.mark.long
def test_no_modelled_time_is_below_the_roofline(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert 0 < row["tile_use"] <= 1, row
        assert row["modelled_us"] >= row["roofline_us"] > 0, row


# The report of a table whose only entry spills.
SPILLING = """
import sys
from medfocus.kernels import tile
from medfocus.kernels.tuning import report
key = tile.TileKey("masked_attention", 90, 16, 128, 1)
tile.table()[key] = tile.Tile(256, 128, 4, 2)
report.table = lambda: {key: tile.table()[key]}
report.FIXED_CASES.clear()
report.compile_all = lambda architectures: iter(report._compile_entry((90, key)))
sys.exit(report.main(["--arch", "90"]))
"""


def test_a_tile_that_spills_is_named() -> None:
    done = python("-c", SPILLING)
    assert done.returncode == 1, done.stderr
    assert "masked_attention B256 H12 N197 D128" in done.stderr
    assert "spills" in done.stderr


def test_the_interpreter_cannot_make_the_report() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medfocus.kernels.tuning.report"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr


def test_the_table_has_every_band() -> None:
    for architecture in CARDS:
        for kernel in CASES:
            bands = {
                k.band for k in table() if (k.kernel, k.architecture) == (kernel, architecture)
            }
            assert bands == set(range(len(BANDS) + 1))
