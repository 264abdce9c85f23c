"""The service under load, compared with the engine called from as many threads, interleaved.

    python -m medfocus.benchmarks.serving.load ENGINE_DIR IMAGE -o load.json [--litserve PYTHON]

wrk (Debian's package) is the generator: one connection per client, each posts the image again as
soon as it is answered. A window counts the answers within it, for all alike, and begins when the
others are idle and stopped: LitServe goes on with requests whose clients have left, and polls its
queues. PYTHON names an interpreter that has medfocus and litserve, to compare with what people
would write instead.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.serving import direct
from medfocus.benchmarks.serving.family import Family
from medfocus.benchmarks.serving.process import free_port, serve_process
from medfocus.files.atomic_write import atomic_write

CLIENTS = (1, 8, 64, 256)
LITSERVE = "medfocus.benchmarks.serving.litserve"
SCRIPT = Path(__file__).with_name("load.lua")

Window = dict[str, float]  # what load.lua prints
Measure = Callable[[int, float], Window]  # of clients and seconds


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        family: its processes.
        measure: has a window of it.
    """

    family: Family
    measure: Measure

    def window(self, clients: int, seconds: float) -> Window:
        """A window of it alone; what its clients abandoned is over when this returns."""
        with self.family.running():
            found = self.measure(clients, seconds)
            self.family.wait_until_idle()
        return found


def through_http(url: str, field: str, image: Path) -> Measure:
    """Windows of wrk at an address.

    Args:
        url: that takes the form.
        field: of the form that takes a file.
        image: that is sent.
    """

    def measure(clients: int, seconds: float) -> Window:
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "120s"]
        command += ["-s", str(SCRIPT), url, "--", str(image), field]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        window: Window = json.loads(done.stdout.splitlines()[-1])
        if window["errors"]:
            raise RuntimeError(done.stdout)
        return window

    return measure


@contextmanager
def worker(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that says "ready" on a line of its own, ended at the end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("ready"):
                    break
            else:
                raise RuntimeError(f"{command[0]} ended before it was ready")
            yield process
        finally:
            Family(process.pid).end()  # LitServe's workers outlive it


def in_process(process: "subprocess.Popen[str]") -> Measure:
    """Windows of `direct`, in a process of its own."""

    def measure(clients: int, seconds: float) -> Window:
        assert process.stdin is not None
        assert process.stdout is not None
        print(clients, seconds, file=process.stdin, flush=True)
        window: Window = json.loads(process.stdout.readline())
        return window

    return measure


def compared(
    contenders: dict[str, Contender], clients: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """Interleaved windows of each, and its throughput as a ratio to the first one's.

    Raises:
        RuntimeError: a window has no answer.
    """
    for contender in contenders.values():
        contender.window(clients, 1.0)  # connections, threads, shapes of batches
    windows: dict[str, list[Window]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            window = contenders[name].window(clients, seconds)
            if not window["answers"]:
                raise RuntimeError(f"{name}: no answer to {clients} clients in {seconds:g} s")
            windows[name].append(window)
    first = next(iter(contenders))
    found: dict[str, Any] = {"clients": clients, "rounds": rounds, "seconds": seconds}
    for name, seen in windows.items():
        rates = [each["answers"] / each["seconds"] for each in seen]
        ratios = [
            rate * other["seconds"] / other["answers"]
            for rate, other in zip(rates, windows[first], strict=True)
        ]
        found[name] = {
            "images_per_second": round(statistics.median(rates), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(min(ratios), 3), round(max(ratios), 3)],
            **{
                f"{quantile}_ms": round(1000 * statistics.median(w[quantile] for w in seen), 2)
                for quantile in ("p50", "p95", "p99")
            },
        }
    return found


def main() -> None:
    """Measure, show and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.serving.load", description=__doc__
    )
    parser.add_argument("engine", type=Path, help="engine directory")
    parser.add_argument("image", type=Path, help="image that each request sends")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=12.0, help="of a window (default: 12)")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--litserve", metavar="PYTHON")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    environment = environment_of(Path(), "cpu")
    engine, image = str(options.engine.resolve()), options.image.resolve()
    with ExitStack() as stack:
        command = [sys.executable, "-m", direct.__name__, engine, str(image)]
        process = stack.enter_context(worker(command))
        contenders = {"direct": Contender(Family(process.pid), in_process(process))}
        service = stack.enter_context(serve_process([engine, "--port", "0"]))
        path = f"/v1/engines/{options.engine.resolve().name.lower()}/classify"
        measure = through_http(service.url + path, "files", image)
        contenders["served"] = Contender(Family(service.process.pid), measure)
        if options.litserve is not None:
            port = free_port()
            command = [options.litserve, "-m", LITSERVE, engine, str(port)]
            process = stack.enter_context(worker(command))
            measure = through_http(f"http://127.0.0.1:{port}/predict", "request", image)
            contenders["litserve"] = Contender(Family(process.pid), measure)
        with ExitStack() as stopped:
            for contender in contenders.values():
                stopped.enter_context(contender.family.stopped())
            rows = [
                compared(contenders, clients, options.rounds, options.seconds)
                for clients in track(options.clients, "clients")
            ]
    found = {
        "engine": options.engine.name,
        "image_bytes": image.stat().st_size,
        "processor": environment.processor,
        "threads": environment.threads,
        "date": environment.date,
        "revision": environment.revision,
        "rows": rows,
    }
    atomic_write(options.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
