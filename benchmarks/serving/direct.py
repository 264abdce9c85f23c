"""An engine without a service: `Engine.classify` called from threads, one image per call."""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from medfocus.engine import Engine


def window(engine: Engine, image: bytes, clients: int, seconds: float) -> dict[str, float]:
    """What so many threads get within a window: see load.lua."""
    latencies: list[float] = []
    began = time.perf_counter()

    def call() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            engine.classify([image], keep_masks=False, strict=True)
            if (now := time.perf_counter()) < began + seconds:
                latencies.append(now - sent)

    threads = [threading.Thread(target=call) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    quantiles = np.quantile(latencies or [0.0], (0.5, 0.95, 0.99)).tolist()  # as wrk without one
    return {
        "answers": len(latencies),
        "seconds": seconds,
        **dict(zip(("p50", "p95", "p99"), quantiles, strict=True)),
        "errors": 0,
    }


def main() -> None:
    """Measure a window per line of stdin: clients and seconds."""
    directory, file = sys.argv[1:]
    with Engine.load(directory) as engine:
        image = Path(file).read_bytes()
        print("ready", flush=True)
        for line in sys.stdin:
            clients, seconds = line.split()
            print(json.dumps(window(engine, image, int(clients), float(seconds))), flush=True)


if __name__ == "__main__":
    main()
