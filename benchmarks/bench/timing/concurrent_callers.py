"""Many threads that call `Engine.classify`, each with one image at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfocus.engine import Engine, Prediction


def call(
    engine: Engine,
    images: Sequence[NDArray[np.uint8]],
    right: Callable[[int, Prediction], bool],
    callers: int,
    seconds: float,
) -> dict[str, Any]:
    """Fields of a `BenchRow`: latencies, and the share of right answers.

    `right` judges an answer by its image's index. The first error of a call ends all threads and
    is raised.
    """
    times: list[float] = []
    correct: list[bool] = []
    stopped = threading.Event()
    begun = time.perf_counter()

    def ask(index: int) -> None:
        try:
            while time.perf_counter() < begun + seconds and not stopped.is_set():
                asked = time.perf_counter()
                answer = engine.classify([images[index]])[0]
                times.append(time.perf_counter() - asked)
                correct.append(right(index, answer))
                index = (index + callers) % len(images)
        except Exception:
            stopped.set()
            raise

    with ThreadPoolExecutor(callers) as pool:
        asking = [pool.submit(ask, number % len(images)) for number in range(callers)]
        try:
            for each in asking:
                each.result()
        finally:  # after an interrupt, too
            stopped.set()
    return {
        "rounds": len(times),
        "images_per_second": len(times) / (time.perf_counter() - begun),
        "p50_ms": 1e3 * float(np.median(times)),
        "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
        "times_ms": tuple(1e3 * each for each in times),
        "accuracy": sum(correct) / len(correct),
        "accuracy_of": "label",
    }
