"""Writes docs/performance.md from recorded results, so that no number is typed.

    python -m tools.docs.performance_page benchmarks/results/cpu -o docs/performance.md

The folder holds what the commands that the page names have written.
"""

from collections.abc import Sequence
from typing import Any

from medfocus.benchmarks.bench.parts.pipeline import ONE_BY_ONE, STREAM, UPSTREAM_ONE_BY_ONE, WHOLE
from medfocus.benchmarks.bench.report.rows import BenchRow, rows_of
from medfocus.benchmarks.bench.report.table import columns, missing_lines
from medfocus.benchmarks.bench.timing.clock import ratio
from medfocus.engine.runtime.read_ahead import READ_AHEAD
from tools.docs.page import table, write_page

# By preset, the parts that were run; each in a file of its own.
RUNS = {
    "tiny": ("export", "models", "pipeline", "startup", "scaling"),
    "base": ("models",),
    "base-half": ("models", "pipeline"),
}
RESULTS = (
    *(f"{preset}/{part}" for preset, parts in RUNS.items() for part in parts),
    "self_check",
    "simulation",
    "speed",
)
PLOTS = "../benchmarks/results/cpu"
# What is drawn of each part.
PICTURES = {
    "export": (),
    "models": ("models", "front"),
    "pipeline": ("schedule",),
    "startup": (),
    "scaling": ("batches", "latency"),
}
WEIGHTS = {
    "tiny": "The shipped weights, on phantoms; classes of its pre-training.",
    "base": "ViT-B-16 and sam2.1_hiera_tiny at full size with seeded random weights, which find"
    " regions (`python -m medfocus.benchmarks.bench.random_weights base --regions`): speed, and agreement"
    " with float32, not accuracy of answers.",
    "base-half": "The same in bf16 and int8, on a processor that has them. Here the random weights"
    " find no region (without `--regions`; with it, labels are all but ties, and these engines miss"
    " their parity gate): the masks are all empty, and an IoU of 1 says only that.",
}
PLACE = ("a read takes longer by", "reading threads", "devices", "batch")

TEXT = """# Performance

What `medfocus-bench` found, on which machine and when. Speed stands beside accuracy, on the very
files that were timed; each ratio comes from one run, in which all contenders took turns on the
same images. `medfocus-bench` alone measures the shipped `tiny` anew on your machine in some three
minutes; `--compare OLD.json` names what became slower, less accurate or larger.

- **images/s** by the median round; **p50**, **p95** over the rounds: milliseconds of a whole batch.
- **roof**: the least time that the matrix products and the weights' bytes allow, by the rates that
  this machine showed in PyTorch in the same run, over the median; above 100% a runtime's products
  are faster than PyTorch's.
- **accuracy** against the same models in float32 PyTorch: the mean IoU of the masks, the worst
  image's cosine of embeddings, or the share of equal labels.
- **ratio**: of images a second to those of the first contender, round by round, with a 95%
  interval. Rows marked ~ come from a run in which that one was not as fast as itself. Who is given
  images one by one gets fewer a round.
- Peers: *sam2 + open_clip* is `SAM2ImagePredictor`'s batch call and `encode_image`, with the
  engine's weights and prompts; *autocast*, *compiled* (torch.compile) and *plain ONNX export*
  (`torch.onnx.export` of both image encoders, the mask decoder in PyTorch) are these changed;
  *transformers* is `Sam2Model` and `CLIPVisionModelWithProjection`; it reads the architectures from
  the two others' packages, and its start and memory pay for importing them.

{presets}

## A run of an earlier command

Quartiles of the rounds' ratios, random weights of `base`: from uint8 arrays to the embedding with
nine prompts an image, beside upstream's own code image by image (speed.json; no region is found).

{speed}

## Can it be believed?

{self_check}

## Predicted and measured

A simulation of the pipeline with the stage times of one run predicts others
(`python -m medfocus.benchmarks.simulation`).

{simulation}

## Not measured

Nothing here has run on a GPU: `make gpu-check` measures kernels, models and pipeline where there is
one. TensorRT, FlexAttention and FlashAttention 4 run on a GPU alone.
"""


def render(results: dict[str, Any]) -> str:
    """The page, from the results by name."""
    return TEXT.format(
        presets="\n\n".join(
            _preset(preset, {part: rows_of(results[f"{preset}/{part}"]) for part in parts})
            for preset, parts in RUNS.items()
        ),
        speed="\n\n".join(map(_speed, results["speed"])),
        self_check=_self_check(results["self_check"]),
        simulation=_simulation(results["simulation"]),
    )


def _preset(name: str, runs: dict[str, list[BenchRow]]) -> str:
    first = next(iter(runs.values()))[0].environment
    versions = ", ".join(f"{package} {version}" for package, version in first.versions.items())
    texts = [f"## `{name}`", WEIGHTS[name], f"Python {first.python}, {versions}."]
    for part, rows in runs.items():
        where = rows[0].environment
        place = f"{where.device or where.processor}, {where.threads} threads, {where.date} UTC"
        texts += [f"### {name}: {part}", f"{place}, revision {where.revision}."]
        texts += [f"![{name}: {each}]({PLOTS}/{name}/{each}.png)" for each in PICTURES[part]]
        texts.append(table(*columns([row for row in rows if row.measured])))
        texts += ["\n".join(lines)] if (lines := beside_pytorch(rows)) else []
        missing = missing_lines(rows)
        if missing:
            texts += ["Not there:", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(texts)


def beside_pytorch(rows: Sequence[BenchRow]) -> list[str]:
    """How many times as fast each stream is as PyTorch image by image, by the rounds of its run."""
    lines, stream = [], None
    for row in rows:
        if row.what == WHOLE and row.contender.endswith(STREAM):
            stream = row
        elif stream is not None and row.contender in (ONE_BY_ONE, UPSTREAM_ONE_BY_ONE):
            median, low, high = ratio(*([ms / r.batch for ms in r.times_ms] for r in (row, stream)))
            lines.append(
                f"- {stream.contender} in {stream.precision}: {median:.2f} [{low:.2f}, {high:.2f}]"
                f" times the images a second of {row.contender}."
            )
    return lines


def _self_check(found: dict[str, Any]) -> str:
    where = found["environment"]
    return "\n".join(
        [
            f"{found['contender']}, beside upstream's, {found['runs']} runs of {found['seconds']:g}"
            f" s and {found['rounds']:.0f} rounds on {where['processor']}, {where['date']} UTC"
            " (`python -m medfocus.benchmarks.experiments.self_check ENGINE`):",
            "",
            f"- The peer was as fast as itself, by its own 95% interval, in"
            f" {found['peer_as_fast_as_itself']} of {found['runs']} runs.",
            f"- Of {found['slowed']} runs in which ours took {found['slower'] - 1:.0%} longer on"
            f" purpose, `--compare` found {found['slowed_found']}.",
            f"- Of {found['unchanged']} runs in which it did not, it blamed"
            f" {found['unchanged_blamed']}.",
        ]
    )


def _simulation(found: dict[str, Any]) -> str:
    """Predicted beside measured, then what was predicted alone."""
    where = found["environment"]
    checked = table(
        (*PLACE, "measured, images/s", "predicted", "predicted / measured"),
        [
            [*_place(row["place"]), row["measured"], row["predicted"],
             f"{row['predicted_over_measured']:.2f}"]
            for row in found["rows"]
        ],
    )  # fmt: skip
    alone = table(
        (*PLACE, "predicted, images/s"),
        [[*_place(row["place"]), row["predicted"]] for row in found["elsewhere"]],
    )
    rounds = f"medians of {found['rounds']} rounds, at most {found['furthest_off']:.1%} off"
    place = f"{where['processor']}, {where['threads']} threads, {where['date']} UTC"
    return (
        f"`tiny` on {found['engine']}, {rounds}, {place}:\n\n{checked}\n\n"
        "Predicted alone, of a long stream, if each device were this processor (at most"
        f" {READ_AHEAD + 1} sources are read at once):\n\n{alone}"
    )


def _place(place: dict[str, Any]) -> list[str]:
    return [
        f"{1e3 * place['slower_read']:.0f} ms",
        *(str(place[name]) for name in ("hosts", "devices", "max_batch")),
    ]


def _speed(run: dict[str, Any]) -> str:
    machine = run["machine"]
    rows = table(
        ("", "images a second", "ratio", "quartiles", "worst cosine"),
        [
            [
                row["contender"],
                f"{row['images_per_second']:.2f}",
                f"{row['ratio'][1]:.2f}",
                f"{row['ratio'][0]:.2f} to {row['ratio'][2]:.2f}",
                f"{row['worst_cosine']:.6f}",
            ]
            for row in run["rows"]
        ],
    )
    rounds = f"{run['rounds']} rounds of {run['images a round']} images"
    models = f"{run['clip']} and {run['sam2']}"
    where = f"{machine['processor']}, {machine['threads']} threads, {rounds}, {run['date']}"
    return f"{models} on {where}:\n\n{rows}"


if __name__ == "__main__":
    write_page("performance_page", RESULTS, render)
