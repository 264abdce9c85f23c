"""Writes docs/export.md from recorded results, so that no number is typed.

    python -m medfocus.benchmarks.export_page benchmarks/results/cpu -o docs/export.md

The folder holds engine_parity.json, speed.json, export_cost.json, install.json and
token_padding.json, each written by the module in `benchmarks/` that the page names.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from medfocus.export.parity import SEGMENTER_SIZE, THRESHOLDS
from medfocus.export.precision import FLOAT32_SCOPES, FOLLOW, HALF

RESULTS = ("engine_parity", "speed", "export_cost", "install", "token_padding")
FIGURES = (
    "embedding_cosine",
    "top1_agreement",
    "probability_difference",
    "mask_iou",
    "mask_logit_error",
    "patch_focus_difference",
)

TEXT = """# Export

`medfocus-export` turns a preset, or your own checkpoints, into an engine directory, checks it
against the float32 PyTorch model, and writes it only if it passes.

```
medfocus-export --fp16                     # the shipped `tiny`, into engines/tiny; no network
medfocus-export --preset base --clip-weights open_clip_model.safetensors \\
    --sam2-weights sam2.1_hiera_tiny.pt --classes classes.txt --fp16 -o engines/mine
medfocus-export --inspect engines/mine     # what it holds, whether it is intact, what runs it here
```

| target | files | runs in |
|---|---|---|
| `onnx` | `segmenter.onnx`, `classifier.onnx`, weights in `.onnx.data` | ONNX Runtime, CPU or CUDA |
| `openvino` | the same; with `--int8` `segmenter.int8.xml`, `classifier.int8.xml`, weights in `.bin` | OpenVINO, CPU |
| `torch` | `segmenter.safetensors`, `classifier.safetensors` | PyTorch, with the Triton kernels on CUDA |
| `tensorrt` | the ONNX files and `plans/<architecture>-<version>/` | TensorRT, CUDA |

`--targets` names them; without it, all that can be built and checked on this machine are, and the
others are named with the reason. An engine loads only in the backends it was checked in;
`Engine.load(backend="auto")` takes the fastest that is installed: on CUDA TensorRT, PyTorch, ONNX
Runtime, on a CPU OpenVINO, ONNX Runtime, PyTorch.

The two ONNX graphs are the whole computation, prompts to masks and images to probabilities
(selection, pooling, bias, head and softmax inside), with dynamic batch, prompts and points, in
opset 22. Every export passes `onnx.checker` and shape inference.

## Precision

`--fp16` and `--bf16` write types into the graph, a Cast wherever they change, by a policy that the
manifest carries:

- **half precision**: {half}.
- **as their inputs**: {follow}; also a layer's own bias and a product with a scalar.
- **float32**: all else: LayerNorm, softmax, the residual stream's sums, the focus bias; in the scope
  {scopes} (coordinates, before sin and cos) and outside of every block (pooling, head) all of it.

Where the gate is missed, activation ranges are measured block by block on the float32 graph, and
the blocks with the largest become float32 too: one, then two more, then four, until it passes or
none is left. Only blocks of the graph that missed are touched; the manifest names them.

Each runtime computes as it can, and is checked as it does:

- ONNX Runtime's CPU rounds where the graph says and computes most operators in float32; it has no
  bf16. What an fp16 graph does on CUDA **was not measured**.
- OpenVINO takes a hint for the whole graph: bf16 for fp16 and bf16 engines where the processor has
  it. Where that misses the gate, float32.
- PyTorch runs in autocast: on the processor used here its fp16 is slower than its float32.
- `--int8` quantises weights and activations for OpenVINO with NNCF, calibrated on the checked images;
  pooling, head and the coordinates stay float32. NNCF would report its use to its maker; that is
  switched off.

## The parity gate

At least 64 images: those of `--calibration`, then phantoms. Every bucket gets its share of them, in
full batches of images that differ. Masks and labels are compared end to end; embeddings,
probabilities and patch focus with both classifiers given the same masks. *Worst* is over images,
*largest* over all values.

| | embedding cosine, worst | same label | probability difference, largest | mask IoU, mean | mask logit error, median image | patch focus difference, largest |
|---|---:|---:|---:|---:|---:|---:|
{thresholds}

The last row is for `--segmenter-size`: another size is another model, compared with the same
weights at the architecture's own size. Trained weights may pass it; random ones never do.

`tiny`, on {parity_images} phantoms that nothing was calibrated on
(`python -m medfocus.benchmarks.engine_parity`):

{parity}

## Speed on a CPU

`base`, {processor}, {threads} threads, {rounds} in one interleaved run
(`python -m medfocus.benchmarks.cpu_speed`), from uint8 arrays to the embedding with nine prompts an
image. *Ratio* is the median of the rounds' ratios to upstream's own code, with quartiles. The
weights are random and find no region, so the cosine is that with upstream's `encode_image`:

{speed}

## What an export costs

Two cores, no GPU, random weights from files (`python -m medfocus.benchmarks.export_cost`). *Without
checks* is all but running the images of the gate: loading, tracing, writing and hashing, and every
backend loaded.

{cost}

## Installing

| installation | size on disk |
|---|---:|
{install}

Without torch an engine is run and inspected (`medfocus-classify`, `medfocus-export --inspect`,
`medfocus.engine`); exporting wants `medfocus[export]`.

## Token padding

CLIP's 197 tokens could be padded to 200 with a finite negative bias, where a runtime's fused
attention asks for such lengths. Measured on the CPU (`python -m medfocus.benchmarks.token_padding`):

{padding}

They are not padded: on a CPU it gains nothing, and on CUDA, where ONNX Runtime's
memory-efficient attention has that condition, it **was not measured**.

{tensorrt}"""  # noqa: E501 (rows of tables)


def render(results: dict[str, Any], tensorrt: str) -> str:
    """The page.

    Args:
        results: the parsed files by name.
        tensorrt: the section on TensorRT, as it stands.
    """
    speed, parity = results["speed"], results["engine_parity"]
    return TEXT.format(
        half=_code(HALF),
        follow=_code(FOLLOW),
        scopes=_code(FLOAT32_SCOPES),
        thresholds="\n".join(
            _row([name, *(f"{getattr(limits, figure):g}" for figure in FIGURES)])
            for name, limits in {**THRESHOLDS, "segmenter size": SEGMENTER_SIZE}.items()
        ),
        parity_images=parity[0]["images"],
        parity=_table(
            ("export", "backend", "arithmetic", *(f.replace("_", " ") for f in FIGURES)),
            [
                [
                    row["exported"],
                    row["backend"],
                    row["arithmetic"],
                    f"{row['embedding_cosine']:.6f}",
                    f"{row['top1_agreement']:.2%}",
                    *(f"{row[name]:.2g}" for name in FIGURES[2:3]),
                    f"{row['mask_iou']:.4f}",
                    *(f"{row[name]:.2g}" for name in FIGURES[4:]),
                ]
                for row in parity
            ],
        ),
        processor=speed["machine"]["processor"],
        threads=speed["machine"]["threads"],
        rounds=f"{speed['rounds']} rounds of {speed['images a round']} images",
        speed=_table(
            ("", "images a second", "ratio", "quartiles", "worst cosine"),
            [
                [
                    row["contender"],
                    f"{row['images_per_second']:.2f}",
                    f"{row['ratio'][1]:.2f}",
                    f"{row['ratio'][0]:.2f} to {row['ratio'][2]:.2f}",
                    f"{row['worst_cosine']:.6f}",
                ]
                for row in speed["rows"]
            ],
        ),
        cost=_table(
            ("export", "seconds", "without checks", "peak memory"),
            [
                [
                    f"`{row['arguments']}`",
                    f"{row['seconds']:.0f}",
                    f"{row['seconds_without_checks']:.0f}",
                    f"{row['peak_gb']:.1f} GiB",
                ]
                for row in results["export_cost"]
                if row["status"] == 0
            ],
        ),
        install="\n".join(
            _row([f"`pip install '{row['requirement']}'`", f"{row['megabytes']} MB"])
            for row in results["install"]
        ),
        padding=_table(
            ("runtime", "plain, ms", "padded, ms", "padded over plain, quartiles"),
            [
                [row["runtime"], *row["milliseconds"], "{} {} {}".format(*row["padded_over_plain"])]
                for row in results["token_padding"]
            ],
        ),
        tensorrt=tensorrt,
    )


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _table(names: tuple[str, ...], rows: list[list[Any]]) -> str:
    head = [_row(list(names)), "|---|" + "---:|" * (len(names) - 1)]
    return "\n".join([*head, *map(_row, rows)])


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.export_page")
    parser.add_argument("results", type=Path)
    parser.add_argument("--tensorrt", type=Path, default=Path("docs/tensorrt.md"))
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    results = {name: json.loads((options.results / f"{name}.json").read_text()) for name in RESULTS}
    options.out.write_text(render(results, options.tensorrt.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
