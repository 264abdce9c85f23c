"""An engine under load for long: memory over a long stream, and latency with many callers.

    python -m medfocus.benchmarks.experiments.soak ENGINE -o benchmarks/results/cpu/soak.json

Every answer is compared with the one that its image gets in a batch of its own.
"""

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from medfocus.atomic_write import atomic_write
from medfocus.benchmarks.bench.environment import processor
from medfocus.benchmarks.bench.timing.concurrent_callers import Picture, call
from medfocus.engine import Engine, Prediction
from medfocus.engine.runtime.memory import process_memory
from medfocus.export.validate.images import phantoms

DISTINCT = 64
FIRST = 1000  # images after which memory is compared
# In probability: the batch decides in which order sums are made. Half precision is further off.
CLOSE = 1e-3


def main() -> None:
    """Measure and append to the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.experiments.soak")
    parser.add_argument("engine", metavar="ENGINE", type=Path)
    parser.add_argument("--images", type=int, default=20_000, help="of the stream (20000)")
    parser.add_argument("--callers", type=int, default=32, help="threads (32)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the calls (60)")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    pictures = [phantom.pixels for phantom in phantoms(DISTINCT)]
    runs = json.loads(options.out.read_text()) if options.out.exists() else []
    with closing(Engine.load(options.engine)) as engine:
        expected = [engine.classify([picture])[0] for picture in pictures]
        run = {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "engine": options.engine.name,
            "backend": engine.backend,
            "stream": stream(engine, pictures, expected, options.images),
        }
    with closing(Engine.load(options.engine)) as engine:
        run["callers"] = callers(engine, pictures, expected, options.callers, options.seconds)
    atomic_write(options.out, json.dumps([*runs, run], indent=1) + "\n")
    print(json.dumps(run, indent=1))


def stream(
    engine: Engine, pictures: Sequence[Picture], expected: Sequence[Prediction], images: int
) -> dict[str, Any]:
    """A long stream: resident memory after `FIRST` images and its highest later, and answers."""
    begun = time.perf_counter()
    right, first, highest = 0, 0, 0
    shown = engine.stream(islice(cycle(pictures), images))
    for number, answer in enumerate(track(shown, "streaming", total=images)):
        right += _same(answer, expected[number % len(pictures)])
        if number + 1 == FIRST:
            first = highest = process_memory("VmRSS")
        elif number % 100 == 0:
            highest = max(highest, process_memory("VmRSS"))
    return {
        "images": images,
        "right": right,
        "images_per_second": round(images / (time.perf_counter() - begun), 2),
        f"mb_after_{FIRST}": round(first / 1e6, 1),
        "mb_more_at_most_later": round((highest - first) / 1e6, 1),
    }


def callers(
    engine: Engine,
    pictures: Sequence[Picture],
    expected: Sequence[Prediction],
    count: int,
    seconds: float,
) -> dict[str, Any]:
    """Many threads, each with one image at a time: answers, latency, and batch sizes."""
    right = lambda index, answer: _same(answer, expected[index])  # noqa: E731
    found = call(engine, pictures, right, count, seconds)
    segment = engine.stats().stages["segment"]
    latency = np.quantile(found["times_ms"], (0.5, 0.95, 0.99))
    names = ("p50", "p95", "p99")
    return {
        "callers": count,
        "seconds": seconds,
        "answers": found["rounds"],
        "wrong": round(found["rounds"] * (1 - found["accuracy"])),
        "images_a_batch": round(segment.images / segment.runs, 2),
        "latency_ms": dict(zip(names, latency.round(1).tolist(), strict=True)),
    }


def _same(answer: Prediction, expected: Prediction) -> bool:
    if answer.error is not None or answer.label != expected.label:
        return False
    pairs = ((answer.probabilities[name], each) for name, each in expected.probabilities.items())
    return all(abs(one - other) < CLOSE for one, other in pairs)


if __name__ == "__main__":
    main()
