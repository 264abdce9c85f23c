"""Whether the simulated stream is as fast as the real one, and what it says of other machines.

    python -m medfocus.benchmarks.simulation ENGINE -o benchmarks/results/cpu/simulation.json

The stage times of plain runs predict the others: disks that take longer to give a file, more
threads that read from them, and smaller batches. Reading sleeps where a disk is to be slower, so
that more threads than the processor has are no fiction there.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from rich.progress import track

from medfocus.benchmarks.environment import environment_of, threads
from medfocus.benchmarks.pipeline_part import save_phantoms
from medfocus.benchmarks.queueing import Place, StageTimes, images_per_second
from medfocus.benchmarks.timing import quantile
from medfocus.engine import Engine, pipeline, requests
from medfocus.engine.artifact import read_engine_directory
from medfocus.engine.host import HostThreads
from medfocus.engine.images import ImageSource, SourceImage, read_images
from medfocus.engine.stats import Span

SLOTS = 2  # of a CPU's ring
SLOWER = (0.0, 0.02, 0.06, 0.1, 0.2)  # seconds a read
MANY, SLOWER_FOR_MANY = 8, (0.1, 0.4)  # reading threads, and seconds that each read takes longer
SEEDS = range(5)


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.simulation")
    parser.add_argument("engine", metavar="ENGINE", type=Path)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(options.engine, options.images, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measure(path: Path, images: int, rounds: int) -> dict[str, Any]:
    """Rates measured and predicted, and predictions for what is not here."""
    with tempfile.TemporaryDirectory() as folder:
        files = save_phantoms(Path(folder), images)
        here = Place(threads(), 1, SLOTS, read_engine_directory(path).manifest.buckets[-1])
        places = [replace(here, slower_read=seconds) for seconds in SLOWER]
        places.append(replace(here, max_batch=max(1, here.max_batch // 4)))
        places += [replace(here, hosts=MANY, slower_read=each) for each in SLOWER_FOR_MANY]
        with ExitStack() as stack:
            engines = {}
            for place in places:
                if (key := (place.hosts, place.max_batch)) not in engines:
                    engines[key] = stack.enter_context(closing(_engine(path, place)))
                    _stream(engines[key], files[: place.max_batch], 0.0)  # to warm up
            rates: dict[Place, list[float]] = {place: [] for place in places}
            spans: list[Span] = []
            # All places in each round: the machine drifts.
            for _, place in track([*product(range(rounds), places)], "real streams"):
                engine = engines[place.hosts, place.max_batch]
                rate, done = _stream(engine, files, place.slower_read)
                rates[place].append(rate)
                spans += done if place == here else []
            backend = engines[here.hosts, here.max_batch].backend
    times = _stage_times(spans)
    rows = [_row(place, found, _predicted(times, place, images)) for place, found in rates.items()]
    elsewhere = [
        replace(here, hosts=hosts, devices=devices, slower_read=seconds)
        for seconds in (0.0, 0.1)
        for hosts, devices in ((2, 1), (8, 1), (8, 2), (16, 4))  # read-ahead keeps 9 busy at most
    ]
    return {
        "environment": asdict(environment_of(Path.cwd(), "cpu")),
        "engine": f"{backend}, {len(files)} images",
        "rounds": rounds,
        "stage_ms": {name: 1e3 * quantile(each, 0.5) for name, each in asdict(times).items()},
        "rows": rows,
        "furthest_off": max(abs(row["predicted_over_measured"] - 1) for row in rows),
        "elsewhere": [
            {"place": asdict(place), "predicted": round(_predicted(times, place, 100 * images), 2)}
            for place in elsewhere
        ],
    }


def _row(place: Place, rates: Sequence[float], predicted: float) -> dict[str, Any]:
    measured = quantile(rates, 0.5)
    return {
        "place": asdict(place),
        "rounds": [round(rate, 2) for rate in rates],
        "measured": round(measured, 2),
        "predicted": round(predicted, 2),
        "predicted_over_measured": round(predicted / measured, 3),
    }


def _engine(path: Path, place: Place) -> Engine:
    """With as many threads that read as the place has."""
    host = HostThreads(place.hosts)
    with mock.patch.object(pipeline, "HostThreads", return_value=host):
        return Engine.load(path, device="cpu", max_batch=place.max_batch)


def _predicted(times: StageTimes, place: Place, images: int) -> float:
    return quantile([images_per_second(times, place, images, seed) for seed in SEEDS], 0.5)


def _stream(engine: Engine, files: Sequence[Path], slower: float) -> tuple[float, list[Span]]:
    """Images a second, and what was done."""

    def read_slowly(source: ImageSource, name: str) -> list[SourceImage]:
        time.sleep(slower)
        return read_images(source, name)

    with mock.patch.object(requests, "read_images", read_slowly), engine.tracing() as spans:
        begun = time.perf_counter()
        for prediction in engine.stream(files):
            if prediction.error is not None:
                raise prediction.error
        return len(files) / (time.perf_counter() - begun), spans


def _stage_times(spans: Sequence[Span]) -> StageTimes:
    seconds: dict[str, list[float]] = {}
    for span in spans:
        seconds.setdefault(span.stage, []).append((span.ended - span.begun) / span.images)
    return StageTimes(*(seconds[stage] for stage in ("read", "prepare", "segment", "classify")))


if __name__ == "__main__":
    main()
