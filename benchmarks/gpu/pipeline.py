"""`Engine.stream` on a GPU beside the segmenter alone and upstream's own code, in one run.

    python -m medfocus.benchmarks.gpu.pipeline OUT.json

Preset `base` with seeded random weights, bf16, one prompt an image, images in memory. Upstream is
SAM2ImagePredictor's batch and open_clip, eager in float32, and compiled under autocast in fp16.
Who is compared runs in turns; every ratio is of images a second, round by round. OUT.json is
written anew after each stage, so that a time limit costs what comes later and nothing else. Exit
status 1 if a stage failed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfocus.benchmarks.baselines.gpu_upstream import Upstream
from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.bench.failures import FAILURES, first_line
from medfocus.benchmarks.bench.random_weights import SAM2_CONFIGS
from medfocus.benchmarks.bench.timing.clock import turns
from medfocus.benchmarks.gpu.busy import device_work, idle_share
from medfocus.benchmarks.gpu.engine import Picture, Rig, pictures_of, random_directory, rig
from medfocus.benchmarks.gpu.pipeline_goals import ALONE, COMPILED, EAGER, STREAM, goals
from medfocus.benchmarks.gpu.process import write_whole
from medfocus.engine import Engine
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers
from medfocus.models.presets import preset

BATCH = 32
SMALL = 8  # the other batch size that upstream is tried at
ROUND_SECONDS = 4.0  # of the stream, against the segmenter alone
UPSTREAM_ROUNDS = 3  # of a quarter of the images: goals of 5 and 2 bear that the pipeline fills
TRACED = 24  # batches under the profiler
GRAPHED = ("segment", "classify")

Stages = dict[str, Callable[[], None]]


def main(arguments: list[str] | None = None) -> int:
    """Measure; the file is written as it goes."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.gpu.pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--images", type=int, default=4096, help="a round, of the stream, at most")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    most: int = options.images
    found: dict[str, Any] = {
        "environment": asdict(environment_of(Path.cwd(), options.device)),
        "preset": options.preset,
        "batch": min(BATCH, most),
        "races": [],
        "problems": [],
    }
    pictures = pictures_of(found["batch"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "engine")
        directory = random_directory(options.preset, path, options.device, len(pictures))
        with rig(directory, options.device, pictures) as ready:
            describe_graphs(found, ready, options.device)
            stages = stages_of(found, ready, options.device, pictures, most, options.rounds)
            run_stages(stages, found, options.out)
    return int(bool(found["problems"]))


def describe_graphs(found: dict[str, Any], ready: Rig, device: str) -> None:
    """Record which CUDA graphs were captured; on a GPU, one that is missing is a problem."""
    found["cuda_graphs"] = [list(graph) for graph in ready.graphs]
    if device == "cuda":
        wanted = [(stage, size) for stage in GRAPHED for size in ready.engine.manifest.buckets]
        found["problems"] += [
            f"no CUDA graph of {stage} with {size} images: it ran eager"
            for stage, size in wanted
            if (stage, size) not in ready.graphs
        ]


def run_stages(stages: Stages, found: dict[str, Any], out: Path) -> None:
    """Run all stages, writing down after each what is known, and what is not."""
    left = list(stages)
    write_down(found, left, out)
    for name, stage in stages.items():
        begun = time.perf_counter()
        try:
            stage()
        except FAILURES as failure:
            found["problems"].append(f"{name}: {first_line(failure)}")
        left.remove(name)
        write_down(found, left, out)
        print(f"{name}: done in {time.perf_counter() - begun:.0f} s", flush=True)


def write_down(found: dict[str, Any], left: Sequence[str], out: Path) -> None:
    """Write the file as it would be if this were the end."""
    found |= {"not_reached": [*left], "goals": goals(found)}
    write_whole(out, json.dumps(found, indent=1) + "\n")


def stages_of(
    found: dict[str, Any],
    ready: Rig,
    device: str,
    pictures: Sequence[Picture],
    most: int,
    rounds: int,
) -> Stages:
    """What is measured into `found`, the most wanted first; torch.compile takes its time."""
    engine, buffers, batch = ready.engine, ready.buffers, len(pictures)

    def against_segmenter() -> None:
        first = min(most, 8 * batch)
        streamed(engine, pictures, first)  # what is done once only
        images = images_a_round(streamed(engine, pictures, first), batch, most)
        found["images"] = images
        runs = {
            STREAM: partial(streamed, engine, pictures, images),
            ALONE: partial(segmented, buffers, device, batch, images),
        }
        record(found, ALONE, batch, images, race(runs, rounds))

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
    def upstream(compiled: bool) -> Upstream:
        return Upstream(preset(found["preset"]), device, compiled)

    def against_upstream(peer: str, size: int) -> None:
        images = max(batch, found.get("images", most) // 4 // batch * batch)
        shown = pictures[:size]
        theirs = partial(upstream(peer == COMPILED).rate, shown, max(1, 2 * batch // size))
        runs = {STREAM: partial(streamed, engine, pictures, images), peer: theirs}
        record(found, peer, size, images, race(runs, min(rounds, UPSTREAM_ROUNDS)))

    stages: Stages = {f"{STREAM} / {ALONE}": against_segmenter, "latency": latency}
    if device == "cuda":
        stages["idle share"] = idle
    if preset(found["preset"]).sam2 in SAM2_CONFIGS:
        for peer in (EAGER, COMPILED):
            for size in dict.fromkeys((batch, min(SMALL, batch))):
                stages[f"{peer}, {size} at once"] = partial(against_upstream, peer, size)
    return stages


def race(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each run returns, round by round, in turns; after one that does not count."""
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for order in turns(list(runs), rounds):
        for name in order:
            rates[name].append(runs[name]())
    return rates


def record(
    found: dict[str, Any], peer: str, batch: int, images: int, rates: Mapping[str, list[float]]
) -> None:
    """A race against a peer: images a second a round, the peer's batch, the stream's images."""
    race = {"peer": peer, "batch": batch, "stream_images": images}
    found["races"].append({**race, "stream": rates[STREAM], "images_per_second": rates[peer]})


def images_a_round(rate: float, batch: int, most: int) -> int:
    """Whole batches for about `ROUND_SECONDS` at `rate` images a second, but `most` at most."""
    return min(most, max(batch, int(rate * ROUND_SECONDS) // batch * batch))


def streamed(engine: Engine, pictures: Sequence[Picture], images: int) -> float:
    """Images a second through the whole pipeline."""
    shown = (pictures[number % len(pictures)] for number in range(images))
    begun = time.perf_counter()
    answered = sum(answer.error is None for answer in engine.stream(shown))
    seconds = time.perf_counter() - begun
    assert answered == images, f"{answered} of {images} images were answered"
    return images / seconds


@torch.inference_mode()
def segmented(buffers: TorchBatchBuffers, device: str, batch: int, images: int) -> float:
    """Images a second of the segmenter's graph, one replay after another."""
    begun = time.perf_counter()
    for _ in range(images // batch):
        buffers.run("segment", batch)
    _wait(device)
    return images // batch * batch / (time.perf_counter() - begun)


def call_seconds(engine: Engine, pictures: Sequence[Picture]) -> float:
    """Median of the seconds of a call with one image."""
    waits = []
    for number in range(max(20, 6 * len(pictures))):
        begun = time.perf_counter()
        engine.classify([pictures[number % len(pictures)]])
        waits.append(time.perf_counter() - begun)
    return float(np.median(waits[10:]))


@torch.inference_mode()
def graph_seconds(buffers: TorchBatchBuffers, device: str) -> float:
    """Seconds of one image's two graphs, replayed without a break."""
    replays = 50 if device == "cuda" else 2
    for _ in range(2):  # the first time does not count
        _wait(device)
        begun = time.perf_counter()
        for _ in range(replays):
            buffers.run("segment", 1)
            buffers.run("classify", 1)
        _wait(device)
    return (time.perf_counter() - begun) / replays


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
