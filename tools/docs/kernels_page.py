"""Writes docs/kernels.md from what the compiler made of the kernels, so that no number is typed.

    python -m tools.docs.kernels_page benchmarks/results/compiled -o docs/kernels.md

The folder holds report.json (`python -m medfocus.kernels.tuning.report --json`) and tile_waste.json
(`python -m medfocus.benchmarks.tile_waste`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from medfocus.kernels.tile import BANDS
from medfocus.kernels.tuning.roofline import CARDS, LATENCY
from tools.docs.page import table

TEXT = """# The kernels

CLIP's attention with the focus bias, and what belongs to it, as Triton kernels in `kernels/`.

**Nothing on this page was timed: no GPU has run these kernels yet.** Their results are checked on
the CPU in Triton's interpreter (float32 and float16) against float64; their machine code comes
from compiling ahead of time with triton {triton}; their times are a model's. `make gpu-check`
tests and times them where there is a GPU.

| function | what it is | reads and writes |
|---|---|---|
| `masked_attention` | softmax(scale · q kᵀ + b) v, one bias b a key | packed QKV (B, N, 3·H·D) as the projection wrote it → (B, N, H·D) |
| `masked_attention_varlen` | the same on ragged batches, for `hard` focus | (T, 3·H·D), cu_seqlens → (T, H·D) |
| `cls_attention` | the one query row that CLIP's last layer needs | (B, H·D), (B, N, 2·H·D) → (B, H·D) |
| `focus_bias` | SAM2's mask logits → the bias of every layer | (B, h, w) → (L, B, 1 + g²) |
| `window_attention` | Hiera's windows, with its query pooling | (B, H, W, 3·C) → (B, H', W', C) |

Each is a function with argument checks, a `torch.library` operator (with a fake implementation and
a backward pass that recomputes through PyTorch), and a PyTorch path with the same meaning.

## Which path runs

| `MEDFOCUS_KERNELS` | |
|---|---|
| `on` (default) | CUDA tensors of a supported form take the kernel, others PyTorch's operators |
| `off` | always PyTorch's operators |
| `require` | always the kernel; what it cannot take is an error that says why |

Supported: compute capability 8.0 and later; float16, bfloat16 and float32; D from 16 to 128 in
steps of 8; any N. `medfocus.kernels.dispatch.last_path("masked_attention")` tells
which ran. `MEDFOCUS_CHECKS=on` also looks at values (NaN in a bias, sequence offsets that do not
ascend), which waits for the device; without it such values give undefined numbers, but nothing
outside the tensors is read or written. `MEDFOCUS_KERNELS=require TRITON_INTERPRET=1` runs the
kernels on CPU tensors, slowly.

## Numerics

- The softmax is float32, in base 2; the bias is read once a tile of keys, multiplied by log₂ e,
  and the end of the sequence is folded into it as -inf. A row without keys gives zeros; NaN in the
  tokens is not hidden.
- float32 products go through the tensor cores as three bfloat16 parts and six products, which keeps
  24 bits. The parts fill the registers, so float32 has small tiles and no tails (see below).
- Tests allow twice the error of PyTorch's own path in the same dtype on the same inputs.

## Tiles, and what they waste

A tile's sides are powers of two, and N is 197, 257 or 577. What was tried, for Hopper in bfloat16;
*use* is the share of the computed products that is wanted, *resident* how many programs fit on a
multiprocessor together, *L2* what all programs read through the L2 cache:

{waste}

- **A key tail of 16** costs nothing and is taken everywhere but in float32, where a second loop's
  parts spill. The last tile is the smallest that the tensor cores' instructions allow, compiled into
  the kernel by N.
- **A query tail** is taken where at most half of a tile's rows are left: the last program of a
  head then computes 16, 32 or 64 rows. Hopper's matrix instruction takes 64 rows, so a smaller tail
  runs on the older one.
- **Seeding the softmax with CLS's key** (257 = 1 + 4·64) was counted and not built: over the two
  tails it gains {seed_gain} at N = 257 and nothing at 197, for one more code path.
- **More rows a program** re-read keys and values less often. By the model the L2 cache and not the
  arithmetic bounds 64-row tiles, so tall tiles come out first although they waste more.
- **All keys of a head resident in shared memory**, the tiles of queries in a loop, was compiled and
  given up: with a query tail it spilled, and without it the registers left two programs a
  multiprocessor.
- **A head between two powers of two is cut in two**: 72 as 64 + 16 columns, 96 as 64 + 32.

The table of tiles (`kernels/tiles/modelled.json`) has an entry for each kernel, architecture, 16 or
32 bits, width and band of lengths ({bands} keys). `python -m medfocus.kernels.tuning.tune --modelled`
filled it: candidates are compiled, those that spill are out, and the rest is ranked by
`kernels/tuning/roofline.py`: the busiest of memory, L2, tensor cores, exponentials and other arithmetic,
or the programs one after another where too few overlap, each waiting {latency:g} µs for its first
loads. That wait and the L2's bandwidth are guesses. On a GPU, `python -m medfocus.kernels.tuning.tune -o
FILE` times the first few instead; a table of its own in the same folder goes over the modelled one.

## What the compiler makes of them

`python -m medfocus.kernels.tuning.report` compiles every entry; {count} launches for compute capability
{architectures}: {problems}. The models' own shapes, bfloat16 (`focus_bias`: float32):

{compiled}

*least* is the roofline: every input read once and every output written once, or the useful products
at the tensor cores' rate. Cards: {cards}.

## Goals

On an H200 in bfloat16; `make gpu-check` prints this table with its figures.

| goal | measured |
|---|---|
| masked_attention, (256, 12, 197, 64): 1.15× the fastest of SDPA-efficient, SDPA-cuDNN, FlexAttention | not measured |
| masked_attention, (256, 16, 257, 64): 1.3× | not measured |
| masked_attention, (64, 16, 577, 64): 1.0× | not measured |
| bias on against off: at most 1.05 | not measured |
| window attention: 1.5× SAM2's own partition + SDPA + un-partition | not measured |
| `hard` at 30% kept, ViT-L-14-336, B 64: 2× end to end | not measured |
"""  # noqa: E501 (rows of tables)


def render(report: list[dict[str, Any]], waste: dict[str, Any]) -> str:
    """The page."""
    wrong = sum(bool(row["problems"]) for row in report)
    return TEXT.format(
        triton=waste["triton"],
        waste=table(
            ("way", "N", "D", "use", "registers", "resident", "L2, MB", "model, µs"),
            [_waste(row) for row in waste["rows"]],
        ),
        seed_gain=_seed_gain(waste["rows"]),
        bands=", ".join(f"up to {last}" for last in BANDS) + " and more",
        latency=LATENCY * 1e6,
        count=len(report),
        architectures=", ".join(str(arch) for arch in sorted({row["arch"] for row in report})),
        problems=f"{wrong} with a problem"
        if wrong
        else "none spills, every matrix product is on tensor cores, and all fit the architecture",
        compiled=table(
            (
                *("kernel", "shape", "arch", "tile", "registers", "shared", "resident", "use"),
                *("tensor cores", "least, µs", "model, µs"),
            ),
            [_compiled(row) for row in report if _shown(row)],
        ),
        cards=", ".join(f"{card.architecture} {card.name}" for card in CARDS.values()),
    )


def _waste(row: dict[str, Any]) -> list[str]:
    if "registers" not in row:
        return [row["way"], row["N"], row["D"], f"{row['use']:.0%}", "", "", "", ""]
    return [
        row["way"],
        row["N"],
        row["D"],
        f"{row['use']:.0%}",
        f"{row['registers']}{' (spills)' if row['spills'] else ''}",
        row["programs"],
        row["l2_megabytes"],
        f"{row['modelled_us']:.0f}",
    ]


def _seed_gain(rows: list[dict[str, Any]]) -> str:
    """Points of use that seeding adds at N = 257."""
    use = {row["way"]: row["use"] for row in rows if row["N"] == 257}
    gain = use["64×64 tiles, both tails, seeded with CLS"] - use["64×64 tiles, key and query tails"]
    return f"{100 * gain:.0f} points"


def _shown(row: dict[str, Any]) -> bool:
    if row["kernel"].startswith("masked_attention"):
        return (
            row["dtype"] == "bfloat16"
            and row["shape"].endswith("D64")
            and "N50" not in row["shape"]
        )
    if row["kernel"] == "window_attention":
        return (
            row["dtype"] == "bfloat16"
            and row["shape"].endswith("D96")
            and any(f"window{side} " in row["shape"] for side in (4, 7, 8, 14))
        )
    return True


def _compiled(row: dict[str, Any]) -> list[str]:
    tile = row["tile"]
    return [
        f"`{row['kernel']}`",
        row["shape"],
        row["arch"],
        f"{tile['block_m']}×{tile['block_n']}, {tile['warps']} warps",
        row["registers"],
        row["shared_bytes"],
        row["programs"],
        f"{row['tile_use']:.0%}",
        ", ".join(f"{n} {name}" for name, n in row["mma"].items()) or "none",
        f"{row['roofline_us']:.0f}",
        f"{row['modelled_us']:.0f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs.kernels_page")
    parser.add_argument("results", type=Path, help="the folder of report.json and tile_waste.json")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    report, waste = (
        json.loads((options.results / name).read_text(encoding="utf-8"))
        for name in ("report.json", "tile_waste.json")
    )
    options.out.write_text(render(report, waste), encoding="utf-8")


if __name__ == "__main__":
    main()
