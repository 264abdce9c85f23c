"""An engine under load for long: what a long stream does to memory, and many callers to latency.

    python -m medfocus.benchmarks.experiments.soak ENGINE -o benchmarks/results/cpu/soak.json

Every answer is compared with the one that its image gets alone.
"""

import argparse
import datetime
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from medfocus.benchmarks.bench.environment import processor
from medfocus.engine import Engine, Prediction
from medfocus.engine.runtime.memory import process_memory
from medfocus.export.validate.images import phantoms

DISTINCT = 64
FIRST = 1000  # images after which memory is compared
# In probability: an image's batch decides in which order sums are made. Engines in half precision
# are further off, and not for this comparison.
CLOSE = 1e-3

Picture = NDArray[np.uint8]


def main() -> None:
    """Measure and append to the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.experiments.soak")
    parser.add_argument("engine", metavar="ENGINE", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    pictures = [phantom.pixels for phantom in phantoms(DISTINCT)]
    runs = json.loads(options.out.read_text()) if options.out.exists() else []
    with closing(Engine.load(options.engine)) as engine:
        alone = [engine.classify([picture])[0] for picture in pictures]
        run = {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            "engine": options.engine.name,
            "backend": engine.backend,
            "stream": stream(engine, pictures, alone, options.images),
        }
    with closing(Engine.load(options.engine)) as engine:
        run["callers"] = call(engine, pictures, alone, options.callers, options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([*runs, run], indent=1) + "\n")
    print(json.dumps(run, indent=1))


def stream(
    engine: Engine, pictures: Sequence[Picture], alone: Sequence[Prediction], images: int
) -> dict[str, Any]:
    """A long stream: resident memory after `FIRST` images and its highest later, and answers."""

    def endless() -> Iterator[Picture]:
        for number in range(images):
            yield pictures[number % len(pictures)]

    begun = time.perf_counter()
    right, first, highest = 0, 0, 0
    for number, answer in enumerate(track(engine.stream(endless()), "streaming", total=images)):
        right += _same(answer, alone[number % len(pictures)])
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


def call(
    engine: Engine,
    pictures: Sequence[Picture],
    alone: Sequence[Prediction],
    callers: int,
    seconds: float,
) -> dict[str, Any]:
    """Many threads, each with one image at a time: answers, latency, and how they were gathered."""
    stop = time.perf_counter() + seconds
    waits: list[float] = []
    wrong: list[int] = []

    def ask(place: int) -> None:
        while time.perf_counter() < stop:
            begun = time.perf_counter()
            answer = engine.classify([pictures[place]])[0]
            waits.append(time.perf_counter() - begun)
            if not _same(answer, alone[place]):
                wrong.append(place)
            place = (place + callers) % len(pictures)

    with ThreadPoolExecutor(callers) as pool:
        for asked in [pool.submit(ask, n % len(pictures)) for n in range(callers)]:
            asked.result()  # raises what a call raised
    segment = engine.stats().stages["segment"]
    p50, p95, p99 = np.quantile(waits, (0.5, 0.95, 0.99))
    return {
        "callers": callers,
        "seconds": seconds,
        "answers": len(waits),
        "wrong": len(wrong),
        "images_a_batch": round(segment.images / segment.runs, 2),
        "latency_ms": {
            "p50": round(1e3 * p50, 1),
            "p95": round(1e3 * p95, 1),
            "p99": round(1e3 * p99, 1),
        },
    }


def _same(answer: Prediction, alone: Prediction) -> bool:
    if answer.error is not None or answer.label != alone.label:
        return False
    return all(
        abs(answer.probabilities[name] - alone.probabilities[name]) < CLOSE
        for name in alone.probabilities
    )


if __name__ == "__main__":
    main()
