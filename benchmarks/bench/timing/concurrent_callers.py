"""Many threads that call `Engine.classify`, each with one image at a time."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from medfocus.benchmarks.bench.timing.clock import quantile
from medfocus.engine import Engine
from medfocus.engine.io.images import SourceImage


def call(
    engine: Engine,
    images: Sequence[SourceImage],
    labels: Sequence[str],
    callers: int,
    seconds: float,
) -> dict[str, Any]:
    """Fields of a `Row`: latencies, and the share of answers with the label that is right.

    Args:
        engine: shared by all threads.
        images, labels: what is asked, and each one's answer.
        callers: how many threads.
        seconds: for how long.

    Raises:
        Exception: the first that a call raised, once all threads have ended.
    """
    times: list[float] = []
    failures: list[Exception] = []
    stopped = threading.Event()
    right: list[bool] = []
    stop = time.perf_counter() + seconds

    def ask(place: int) -> None:
        try:
            while time.perf_counter() < stop and not stopped.is_set():
                place = (place + callers) % len(images)
                begun = time.perf_counter()
                answer = engine.classify([images[place].pixels])[0]
                times.append(time.perf_counter() - begun)
                right.append(answer.label == labels[place])
        except Exception as error:  # the backend's; raised in the thread that called
            failures.append(error)

    begun = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(callers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # an interrupt
        stopped.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return {
        "rounds": len(times),
        "images_per_second": len(times) / (time.perf_counter() - begun),
        "p50_ms": 1e3 * quantile(times, 0.5),
        "p95_ms": 1e3 * quantile(times, 0.95),
        "times_ms": tuple(1e3 * each for each in times),
        "accuracy": sum(right) / len(right),
        "accuracy_of": "label",
    }
