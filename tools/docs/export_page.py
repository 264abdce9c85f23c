"""Writes docs/export.md from recorded results, so that no number is typed.

    python -m tools.docs.export_page benchmarks/results/cpu -o docs/export.md

The folder holds engine_parity.json, export_cost.json, install.json and
token_padding.json, each written by the module in `benchmarks/` that the page names.
"""

from typing import Any

from medfocus.engine.artifact.parity import Thresholds
from medfocus.export.onnx.half_precision import FLOAT32_SCOPES, FOLLOW, HALF
from medfocus.export.validate.comparison import SEGMENTER_SIZE, THRESHOLDS
from tools.docs.page import line, table, write_page

RESULTS = ("engine_parity", "export_cost", "install", "token_padding")
FIGURES = {
    "embedding_cosine": "embedding cosine, worst",
    "top1_agreement": "same label",
    "probability_difference": "probability difference, largest",
    "focused_agreement": "both focused or neither",
    "patch_focus_difference": "patch focus difference, largest",
    "mask_iou": "mask IoU, mean",
    "mask_iou_alone": "mask IoU in a batch and alone, worst",
    "mask_logit_error": "mask logit error, median",
    "score_error": "focus score error, median",
}

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

`--targets` names them; without it, all that can be built and checked on this machine are, the
others are named with the reason, and a target that misses the gate is left out. An engine loads
only in the backends it was checked in; `Engine.load(backend="auto")` takes the fastest that is
installed: on CUDA TensorRT, PyTorch, ONNX Runtime, on a CPU OpenVINO, ONNX Runtime, PyTorch.

The two ONNX graphs are the whole computation, prompts to masks and images to probabilities
(selection, pooling, bias, head and softmax inside), with dynamic batch, prompts and points, in
opset 22. Attention is written as a scale, two products and a softmax, in which OpenVINO finds it;
where an image's cells look at a prompt's few tokens, the softmax runs over them side by side for
many cells. Every export passes `onnx.checker` and shape inference.

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
- OpenVINO takes a hint for the whole graph. fp16 and bf16 engines get bf16 where the exporting
  machine multiplies faster in it than in float32, which one product tells. Where bf16 misses the
  gate, float32. It is given the graph without the Casts, between which it would find no attention.
- PyTorch runs in autocast: on CPUs its fp16 was slower than its float32.
- `--int8` quantises weights and activations for OpenVINO with NNCF, calibrated
  on phantoms that are not those of the check, after the images of `--calibration`, with the masks
  that the int8 segmenter gives them;
  pooling, head, the coordinates and CLIP's last layer, which computes little but one token, stay
  float32. NNCF would report its use to its maker; that is switched off.

## The parity gate

The manifest says whether a backend was checked on the CPU or on CUDA; one that loads on the other
logs a warning. At least 64 images: those of `--calibration`, then phantoms. Every bucket gets its
share of them, in full batches of images that differ. Masks, scores and labels are compared end to
end; embeddings, probabilities, patch focus and whether it is focused with both classifiers given
the same masks. *Worst* is over images, *largest* over all values. An image whose mask is not the
reference's runs once more alone: near ties between SAM2's candidates may go either way, but not
with the neighbours in the batch. The prompts are the zero-shot ones; boxes and points are not
gated.

{thresholds}

The last column is for `--segmenter-size`: another size is another model, compared with the same
weights at the architecture's own size. Trained weights may pass it; random ones never do.

`tiny`, on {parity_images} phantoms that nothing was calibrated on
(`python -m medfocus.benchmarks.experiments.engine_parity`):

{parity}

How fast the backends are beside upstream's own code: [performance.md](performance.md).

## What an export costs

Two cores, no GPU, random weights from the files that `python -m medfocus.benchmarks.bench.random_weights`
writes (`python -m medfocus.benchmarks.bench.export_cost`). *Without checks* is all but running the images
of the gate: loading, tracing, writing and hashing, and every backend loaded. The seconds are upper
bounds: other work ran on the machine beside some of the exports. Of `--int8` they are not: its
classifier is calibrated on masks of 128 images since, which the int8 segmenter makes first.

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

## TensorRT

### How it works

`export/tensorrt/build_plans.py` builds `plans/<sm>-<version>/segmenter.plan` and `classifier.plan`, for
example in `plans/sm90-11.4.0.106/`, from the engine directory's ONNX graphs. A plan runs on the
GPU architecture and the TensorRT version that it was built with, and on no other; an engine
directory may hold several. TensorRT 10 and 11 are taken.

- **Types.** The network is strongly typed: a tensor's precision is what the ONNX file says.
  TensorFloat-32, which TensorRT uses for float32 by default, is switched off.
- **Profiles.** One optimisation profile a bucket, from one image more than the bucket before up to
  the bucket, tuned for the bucket itself. TensorRT chooses kernels for one shape of a profile; with
  a single profile the smallest batches would run on kernels chosen for the largest. The price is
  one tuning run a bucket. Prompts range from 1 prompt of 1 point to the zero-shot set, which is
  what is tuned for, and up to 16 points a prompt.
- **Errors.** What the ONNX parser objects to is given in full: every node, with its name, its
  operator and the reason. So is what TensorRT's logger said when a build or a load gives nothing.
- **Timing cache.** Measured kernel times are kept in `$XDG_CACHE_HOME/medfocus` (`~/.cache/medfocus`),
  a file a GPU architecture and version. It is no part of an engine, and a build does without it.
- **Attention.** `native` leaves attention to TensorRT. `plugin` exports the classifier once more,
  with a node `medfocus::masked_attention` in every layer but the last, and gives TensorRT this
  repository's Triton kernel for it: a quick deployable plugin, its PTX compiled ahead of time for
  the GPU's architecture and stored in the plan. All sizes but the batch are compiled in, and the
  batch is in the number of programs, so the kernel takes three addresses and nothing else. The two
  scratch parameters that Triton adds to every kernel are taken off its PTX; a kernel that reads
  them is refused. Plain CLIP (`none`, `overlay`) gets a bias of zeros.
- **Running.** `engine/backends/tensorrt/backend.py` needs no PyTorch: memory, copies and streams come from
  CUDA's runtime (`cuda-bindings`). Each graph has one execution context on a stream of its own.
  Buffers grow to the largest batch seen and are then used again.

A plan is a program. It is loaded only if its bytes are those that the manifest lists, so trust an
engine directory with plans as far as you trust whoever exported it.

### What was tested, and with what

No test has run on TensorRT itself: its libraries were not to be had where this was written.

| tested | with |
|---|---|
| every name, call and type in our code that uses TensorRT | mypy, with types taken from the real Python bindings of 11.4.0.106 and 10.16.1.11 |
| the stand-in below has no name and no parameter that the bindings lack | the same bindings, imported without their libraries |
| builder: profiles, flags, errors, cache, progress, interrupts; backend: answers, profiles, buffers, errors | a stand-in for TensorRT that computes with ONNX Runtime, its answers compared with the torch backend's |
| the plugin's registration, shapes, types, launch and kernel | TensorRT's own Python code for plugins, of both versions, with stand-ins for its symbolic sizes |
| the plugin's kernel against PyTorch | Triton's interpreter on the CPU |
| its PTX for compute capability 8.0 and 9.0: three parameters, accepted by `ptxas` | Triton's compiler |
| the graph with plugin nodes against PyTorch | ONNX's reference evaluator |
| operators, types and attributes of both graphs, in every mode and policy | the operator table of TensorRT 10.15's parser, the newest one found |

The tests on the bindings want `tensorrt-cu13-bindings` installed, or the folder that holds the
package `tensorrt_bindings` named in `MEDFOCUS_TENSORRT_BINDINGS`, and a C compiler; without them
they are skipped and say why.

### What has never run on a real TensorRT

- Finding attention in the graphs, of which OpenVINO alone was asked; a softmax over the keys' own
  axis, as in the segmenter's decoder, may be none to it.
- Parsing either graph. The table of supported operators is documentation of 10.15; for integer
  `Clip`, which the segmenter has, the parser's source was read (10.1) and the table says less.
- Building a plan, its time and its memory; how many bytes several profiles cost.
- The timing cache's use by TensorRT, and that a cache of another GPU is refused.
- The progress monitor's real phases, and stopping a build.
- Loading a plan, running it, switching profiles between runs; output shapes from
  `get_tensor_shape`; any accuracy, any speed. Nothing was measured.
- The plugin as a whole: that the parser finds it by name, namespace and version and passes
  `num_heads`; that TensorRT launches PTX with exactly inputs then outputs; that tensors it passes
  are aligned to 16 bytes, as the kernel is compiled for; that a plan with it loads without Python.
  More than 48 KiB of shared memory a program would need TensorRT to ask the driver for it: at
  D = 64 and N = 197 and 577 the kernel compiles to 14 to 39 KB (8.0, 9.0 and 10.0; float16 and
  float32), other heads were not looked at.
- Plans in fp16 or bf16.
- TensorRT 10 and 11 beyond the two versions named above, in any way.
"""  # noqa: E501 (rows of tables)


def render(results: dict[str, Any]) -> str:
    """The page, from the parsed files by name."""
    parity = results["engine_parity"]
    limits: list[tuple[str, Thresholds]] = [*THRESHOLDS.items()]
    limits.append(("segmenter size", SEGMENTER_SIZE))
    return TEXT.format(
        half=_code(HALF),
        follow=_code(FOLLOW),
        scopes=_code(FLOAT32_SCOPES),
        thresholds=table(
            ("limit", *(name for name, _ in limits)),
            [
                [label, *(f"{getattr(limit, figure):g}" for _, limit in limits)]
                for figure, label in FIGURES.items()
            ],
        ),
        parity_images=parity[0]["images"],
        parity=table(
            ("exported as", *(row["exported"] for row in parity)),
            [
                ["backend", *(row["backend"] for row in parity)],
                ["arithmetic", *(row["arithmetic"] for row in parity)],
                ["blocks in fp32", *(len(row["float32_blocks"]) for row in parity)],
                *(
                    [label, *(_figure(figure, row[figure]) for row in parity)]
                    for figure, label in FIGURES.items()
                ),
            ],
        ),
        cost=table(
            ("export", "processor", "seconds", "without checks", "peak memory"),
            [
                [
                    f"`{row['arguments']}`",
                    row["processor"],
                    f"{row['seconds']:.0f}",
                    f"{row['seconds_without_checks']:.0f}",
                    f"{row['peak_gb']:.1f} GiB",
                ]
                for row in results["export_cost"]
                if row["status"] == 0
            ],
        ),
        install="\n".join(
            line([f"`pip install '{row['requirement']}'`", f"{row['megabytes']} MB"])
            for row in results["install"]
        ),
        padding=table(
            ("runtime", "plain, ms", "padded, ms", "padded over plain, quartiles"),
            [
                [row["runtime"], *row["milliseconds"], "{} {} {}".format(*row["padded_over_plain"])]
                for row in results["token_padding"]
            ],
        ),
    )


def _figure(name: str, value: float) -> str:
    if name in ("top1_agreement", "focused_agreement"):
        return f"{value:.2%}"
    return f"{value:.6f}" if name == "embedding_cosine" else f"{value:.4f}"


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    write_page("export_page", RESULTS, render)
