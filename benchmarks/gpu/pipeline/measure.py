"""`Engine.stream` on a GPU compared with the segmenter only and with upstream, in one run.

    python -m medfocus.benchmarks.gpu.pipeline.measure OUT.json

Preset `base` with seeded random weights, bf16, one prompt per image, images in memory. Upstream is
SAM2ImagePredictor's batch call and open_clip, without a selection of masks or a head, eager in
float32, and compiled under autocast in fp16. Each comparison is timed in turns; every ratio is of
images per second, round by round. OUT.json is rewritten after each step, so that a time limit costs
only the later steps. Exit status 1 if a step failed.
"""

import argparse
import json
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfocus.benchmarks.baselines.models import OURS, Models
from medfocus.benchmarks.baselines.upstream import SAM2_CONFIGS, upstream_models
from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.bench.failures import first_line
from medfocus.benchmarks.bench.timing.clock import shuffled_rounds
from medfocus.benchmarks.bench.timing.device import measure_ceilings
from medfocus.benchmarks.gpu.pipeline.engine import (
    MeasuredEngine,
    Picture,
    measured_engine,
    pictures_of,
    random_directory,
)
from medfocus.benchmarks.gpu.pipeline.goals import COMPILED, EAGER, SEGMENTER, STREAM, goals
from medfocus.benchmarks.gpu.pipeline.idle import device_work, idle_share
from medfocus.benchmarks.gpu.pipeline.variants import ONE_GRAPH, VARIANTS
from medfocus.engine import Engine
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers
from medfocus.engine.io.images import SourceImage
from medfocus.files.atomic_write import atomic_write
from medfocus.models.presets import preset

BATCH = 32
SMALL = 8  # the other batch size that upstream is tried at
ROUND_SECONDS = 4.0  # of the stream, compared with the segmenter only
UPSTREAM_ROUNDS = 3  # of a quarter of the images: goals of 5 and 2 allow for filling the pipeline
TRACED = 24  # batches under the profiler
GRAPHED = ("segment", "classify")
UPSTREAM = {EAGER: ("upstream", "fp32"), COMPILED: ("compile", "fp16")}

Steps = dict[str, Callable[[], None]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the file is written after each step."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.pipeline.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--images", type=int, default=4096, help="per round, at most (default 4096)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument(
        "--variant", choices=VARIANTS, default=OURS, help="run the pipeline in another way"
    )
    options = parser.parse_args(argv)
    most: int = options.images
    found: dict[str, Any] = {
        "environment": asdict(environment_of(Path.cwd(), options.device)),
        "preset": options.preset,
        "variant": options.variant,
        "batch": min(BATCH, most),
        "comparisons": [],
        "problems": [],
    }
    pictures = pictures_of(found["batch"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "engine")
        directory = random_directory(options.preset, path, options.device, len(pictures))
        with measured_engine(directory, options.device, pictures, options.variant) as ready:
            describe_graphs(found, ready, options.device)
            steps = steps_of(found, ready, options.device, pictures, most, options.rounds)
            run_steps(steps, found, options.out)
    return int(bool(found["problems"]))


def describe_graphs(found: dict[str, Any], ready: MeasuredEngine, device: str) -> None:
    """Record which CUDA graphs were captured; on a GPU, one that is missing is a problem."""
    found["cuda_graphs"] = [list(graph) for graph in ready.graphs]
    if device == "cuda":
        stages = GRAPHED[:1] if found.get("variant") == ONE_GRAPH else GRAPHED
        wanted = [(stage, size) for stage in stages for size in ready.engine.manifest.buckets]
        found["problems"] += [
            f"no CUDA graph of {stage} with {size} images: it ran eager"
            for stage, size in wanted
            if (stage, size) not in ready.graphs
        ]


def run_steps(steps: Steps, found: dict[str, Any], out: Path) -> None:
    """Run all steps, and write after each what was measured and what was not reached."""
    left = list(steps)
    write(found, left, out)
    for name, step in steps.items():
        begun = time.perf_counter()
        try:
            step()
        except Exception as failure:  # out of memory, a package that is missing
            found["problems"].append(f"{name}: {first_line(failure)}")
        left.remove(name)
        write(found, left, out)
        print(f"{name}: done in {time.perf_counter() - begun:.0f} s", flush=True)


def write(found: dict[str, Any], left: Sequence[str], out: Path) -> None:
    """Write the file as if this were the end."""
    found |= {"not_reached": [*left], "goals": goals(found)}
    atomic_write(out, json.dumps(found, indent=1) + "\n")


def steps_of(
    found: dict[str, Any],
    ready: MeasuredEngine,
    device: str,
    pictures: Sequence[Picture],
    most: int,
    rounds: int,
) -> Steps:
    """What is measured into `found`, the most important first; torch.compile takes long."""
    engine, buffers, batch = ready.engine, ready.buffers, len(pictures)

    def ceilings() -> None:
        found["matrix_rate"] = measure_ceilings().matrix_rate

    def segmenter() -> None:
        first = min(most, 8 * batch)
        streamed(engine, pictures, first)  # warm-up
        images = images_per_round(streamed(engine, pictures, first), batch, most)
        found["images"] = images
        theirs = partial(segmented, buffers, device, batch, images)
        compare(SEGMENTER, batch, images, theirs, rounds)

    def latency() -> None:
        found["latency_ms"] = 1e3 * call_seconds(engine, pictures)
        found["graphs_ms"] = 1e3 * graph_seconds(buffers, device)

    def idle() -> None:
        images = min(most, TRACED * batch)
        rate: list[float] = []
        work = device_work(lambda: rate.append(streamed(engine, pictures, images)))
        share = idle_share(work)
        found["idle"] = {"share": share, "images": images, "profiled_images_per_second": rate[0]}

    @cache
    def loaded(name: str) -> Models:
        way, precision = UPSTREAM[name]
        return upstream_models(ready.directory, device, way, precision, select=False)

    def upstream(name: str, size: int) -> None:
        images = max(batch, found.get("images", most) // 4 // batch * batch)
        theirs = partial(embedded, loaded(name), pictures[:size], max(1, 2 * batch // size))
        compare(name, size, images, theirs, min(rounds, UPSTREAM_ROUNDS))

    def compare(
        name: str, size: int, images: int, theirs: Callable[[], float], rounds: int
    ) -> None:
        ours = partial(streamed, engine, pictures, images)
        rates = interleaved_rates({STREAM: ours, name: theirs}, rounds)
        measured = {"stream": rates[STREAM], "images_per_second": rates[name]}
        described = {"baseline": name, "batch": size, "stream_images": images}
        found["comparisons"].append({**described, **measured})

    steps: Steps = {f"{STREAM} / {SEGMENTER}": segmenter, "latency": latency}
    if device == "cuda":
        steps = {"ceilings": ceilings, **steps, "idle share": idle}
    if preset(found["preset"]).sam2 in SAM2_CONFIGS:
        for size in dict.fromkeys((batch, min(SMALL, batch))):
            for name in UPSTREAM:
                steps[f"{name}, batch {size}"] = partial(upstream, name, size)
    return steps


def interleaved_rates(
    runs: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """What each run returns, round by round, in turns; after a warm-up."""
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for order in shuffled_rounds(list(runs), rounds):
        for name in order:
            rates[name].append(runs[name]())
    return rates


def images_per_round(rate: float, batch: int, most: int) -> int:
    """Whole batches for about `ROUND_SECONDS` at `rate` images per second, but at most `most`."""
    return min(most, max(batch, int(rate * ROUND_SECONDS) // batch * batch))


def streamed(engine: Engine, pictures: Sequence[Picture], images: int) -> float:
    """Images per second through the whole pipeline."""
    begun = time.perf_counter()
    shown = islice(cycle(pictures), images)
    answered = sum(answer.error is None for answer in engine.stream(shown))
    seconds = time.perf_counter() - begun
    assert answered == images, f"{answered} of {images} images were answered"
    return images / seconds


def embedded(models: Models, pictures: Sequence[Picture], batches: int) -> float:
    """Images per second of upstream's models over batches of all `pictures`."""
    images = [SourceImage(pixels, "") for pixels in pictures]
    seconds = timeit.timeit(lambda: models.embed(images), number=batches)
    return batches * len(pictures) / seconds


@torch.inference_mode()
def segmented(buffers: TorchBatchBuffers, device: str, batch: int, images: int) -> float:
    """Images per second of the segmenter's graph, replayed back to back."""
    begun = time.perf_counter()
    for _ in range(images // batch):
        buffers.run("segment", batch)
    _synchronize(device)
    return images // batch * batch / (time.perf_counter() - begun)


def call_seconds(engine: Engine, pictures: Sequence[Picture]) -> float:
    """Median seconds of a call with one image."""
    shown = cycle(pictures)
    calls = max(20, 6 * len(pictures))
    waits = timeit.repeat(lambda: engine.classify([next(shown)]), number=1, repeat=calls)
    return float(np.median(waits[10:]))


@torch.inference_mode()
def graph_seconds(buffers: TorchBatchBuffers, device: str) -> float:
    """Seconds of one image's two graphs, replayed back to back."""
    replays = 50 if device == "cuda" else 2
    for _ in range(2):  # the first is a warm-up
        _synchronize(device)
        begun = time.perf_counter()
        for _ in range(replays):
            buffers.run("segment", 1)
            buffers.run("classify", 1)
        _synchronize(device)
    return (time.perf_counter() - begun) / replays


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
