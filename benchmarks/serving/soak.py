"""An hour of a service: every kind of request, good and bad; its memory, descriptors and answers.

    python -m medfocus.benchmarks.serving.soak ENGINE_DIR IMAGES --minutes 60 -o soak.json

It may run while the machine does other things: nothing of it is a time.
"""

import argparse
import base64
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from pydicom.data import get_testdata_file
from rich.progress import Progress

from medfocus.benchmarks.bench.environment import environment_of
from medfocus.benchmarks.serving.process import ServeProcess, serve_process
from medfocus.files.atomic_write import atomic_write

CLIENTS = 4
SECONDS_PER_SAMPLE = 5.0
RELOAD_SECONDS = 180.0  # between two replacements of the engine
DICOM = ("CT_small.dcm", "MR_small.dcm", "rtdose.dcm")  # the last has 15 frames
TOKEN, ADMINISTRATOR = "c" * 32, "a" * 32
CONFIGURATION = """
[engines.soak]
path = {path}
deterministic = true         # answers can then be compared

[security]
token_file = "tokens"
"""


@dataclass(eq=False)
class Tally:
    """What clients saw.

    Attributes:
        statuses: by kind of request and status.
        unexpected: other statuses than the kind has, other answers than the first of its request,
            and errors.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, response: httpx.Response, expected: int, key: str = "") -> None:
        """Count an answer, and compare it with the first for the same `key`."""
        with self.lock:
            self.statuses[f"{kind}: {response.status_code}"] += 1
            if response.status_code != expected:
                self.unexpected[f"{kind}: {response.status_code}"] += 1
            elif key:
                content = response.json()
                found = content.get("predictions", content)
                if self.answers.setdefault(f"{kind} {key}", found) != found:
                    self.unexpected[f"{kind}: another answer"] += 1


class Client:
    """Sends one request after the other, of kinds drawn by a seeded generator.

    Args:
        url: of the service.
        files: images, by name.
        tally: where its answers are counted.
        seed: of the generator.
    """

    def __init__(self, url: str, files: Sequence[tuple[str, bytes]], tally: Tally, seed: int):
        self._files, self._tally, self._random = files, tally, random.Random(seed)
        headers = {"authorization": f"Bearer {TOKEN}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=300)
        self._kinds: list[Callable[[], None]] = [
            *(2 * [self._raw, self._form, self._json]),
            *(self._store, self._infer, self._broken, self._malformed, self._impatient),
            *(self._leaves_early, self._leaves_late, self._stranger, self._operations),
        ]

    def run(self, stopped: threading.Event) -> None:
        """Send until stopped."""
        with self._http:
            while not stopped.is_set():
                kind = self._random.choice(self._kinds)
                try:
                    kind()
                except (httpx.HTTPError, OSError) as error:
                    with self._tally.lock:
                        self._tally.unexpected[f"{kind.__name__}: {type(error).__name__}"] += 1

    def _raw(self) -> None:
        name, data = self._random.choice(self._files)
        mask = self._random.choice(("", "png", "rle", "polygon"))
        query = {"mask": mask} if mask else {}
        headers = {"content-type": "application/octet-stream"}
        response = self._http.post(PATH, content=data, params=query, headers=headers)
        self._tally.add("raw", response, 200, name + mask)

    def _form(self) -> None:
        chosen = self._random.sample(self._files, 3)
        options = {"mask": "png", "boxes": [None, None, [2, 2, 50, 60]]}
        form = [("files", file) for file in chosen]
        response = self._http.post(PATH, files=form, data={"options": json.dumps(options)})
        self._tally.add("form", response, 200, " ".join(name for name, _ in chosen))

    def _json(self) -> None:
        name, data = self._random.choice(self._files)
        body = {"images": [base64.b64encode(data).decode()], "embedding": True, "mask": "rle"}
        self._tally.add("json", self._http.post(PATH, json=body), 200, name)

    def _store(self) -> None:
        (_, data), boundary = self._files[self._random.randrange(len(DICOM))], b"soak"
        part = b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--%b--\r\n"
        kind = f'multipart/related; type="application/dicom"; boundary={boundary.decode()}'
        response = self._http.post(
            "/dicom-web/studies",
            content=part % (boundary, data, boundary),
            headers={"content-type": kind},
        )
        self._tally.add("DICOMweb", response, 200)

    def _infer(self) -> None:
        _, data = self._random.choice(self._files)
        tensor = len(data).to_bytes(4, "little") + data
        described = {
            "inputs": [
                {"name": "images", "datatype": "BYTES", "shape": [1],
                 "parameters": {"binary_data_size": len(tensor)}}
            ],
            "outputs": [{"name": "prediction"}],
        }  # fmt: skip
        head = json.dumps(described).encode()
        headers = {"inference-header-content-length": str(len(head))}
        response = self._http.post("/v2/models/soak/infer", content=head + tensor, headers=headers)
        self._tally.add("Open Inference", response, 200)

    def _broken(self) -> None:
        _, data = self._random.choice(self._files)
        cut = self._random.randrange(len(data) // 2)
        headers = {"content-type": "application/octet-stream"}
        response = self._http.post(PATH, content=data[:cut], headers=headers)
        self._tally.add("broken file", response, 200)

    def _malformed(self) -> None:
        body = bytes(self._random.randrange(256) for _ in range(200))
        headers = {"content-type": "application/json"}
        self._tally.add("malformed", self._http.post(PATH, content=body, headers=headers), 400)

    def _impatient(self) -> None:
        form = [("files", file) for file in self._random.sample(self._files, 3)]
        headers = {"x-request-timeout": "0.001"}
        self._tally.add("no time", self._http.post(PATH, files=form, headers=headers), 504)

    def _stranger(self) -> None:
        response = self._http.get("/v1/engines", headers={"authorization": "Bearer none"})
        self._tally.add("wrong token", response, 401)

    def _operations(self) -> None:
        for path in ("/livez", "/readyz", "/metrics", "/v1/engines"):
            self._tally.add(path, self._http.get(path), 200)

    def _leaves_early(self) -> None:
        with self._connected() as connection:
            connection.sendall(_head(100_000) + bytes(self._random.randrange(100_000)))

    def _leaves_late(self) -> None:
        _, data = self._random.choice(self._files)
        with self._connected() as connection:
            connection.sendall(_head(len(data)) + data)
            time.sleep(self._random.uniform(0, 0.1))

    def _connected(self) -> socket.socket:
        url = urlsplit(str(self._http.base_url))
        return socket.create_connection((url.hostname, url.port), timeout=300)


PATH = "/v1/engines/soak/classify"


def _head(length: int) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def sample(pid: int) -> dict[str, float]:
    """Memory in MB (each shared page counted once among its sharers), descriptors and threads.

    Args:
        pid: of a process; those that it started are counted with it.
    """
    own = psutil.Process(pid)
    found = {"mb": 0.0, "descriptors": 0, "threads": 0, "processes": 0}
    for process in (own, *own.children(recursive=True)):
        try:
            found["mb"] += process.memory_full_info().pss / 1e6
            found["descriptors"] += process.num_fds()
            found["threads"] += process.num_threads()
            found["processes"] += 1
        except psutil.NoSuchProcess:
            continue
    return found


def soak(
    service: ServeProcess, files: Sequence[tuple[str, bytes]], minutes: float
) -> dict[str, Any]:
    """What was seen in so many minutes."""
    tally, stopped = Tally(), threading.Event()
    clients = [Client(service.url, files, tally, seed) for seed in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(stopped,)) for client in clients]
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    reloads = 0
    headers = {"authorization": f"Bearer {ADMINISTRATOR}"}
    with Progress() as progress, httpx.Client(base_url=service.url, timeout=300) as http:
        task = progress.add_task("soaking", total=minutes)
        for thread in threads:
            thread.start()
        while (spent := time.monotonic() - began) < 60 * minutes:
            if spent > (reloads + 1) * RELOAD_SECONDS:
                response = http.post("/v1/engines/soak/load", headers=headers)
                tally.add("replaced", response, 200)
                reloads += 1
            samples.append({"minute": spent / 60, **sample(service.process.pid)})
            progress.update(task, completed=spent / 60)
            time.sleep(SECONDS_PER_SAMPLE)
        stopped.set()
        for thread in threads:
            thread.join()
        progress.update(task, completed=minutes)
    time.sleep(SECONDS_PER_SAMPLE)
    idle = sample(service.process.pid)
    return {
        "minutes": minutes,
        "clients": CLIENTS,
        "replaced": reloads,
        "requests": sum(tally.statuses.values()),
        "statuses": dict(sorted(tally.statuses.items())),
        "unexpected": dict(tally.unexpected),
        "unexpected_count": sum(tally.unexpected.values()),
        "second_sixth": _medians(samples, minutes / 6, minutes / 3),
        "last_sixth": _medians(samples, minutes * 5 / 6, minutes),
        "idle": idle,
        "by_tenth": [
            _medians(samples, minutes * part / 10, minutes * (part + 1) / 10) for part in range(10)
        ],
    }


def _medians(samples: Sequence[dict[str, float]], first: float, end: float) -> dict[str, float]:
    """Of the samples between two minutes; a replacement holds two engines for some seconds."""
    chosen = [each for each in samples if first <= each["minute"] < end]
    names = [name for name in (chosen[0] if chosen else ()) if name != "minute"]
    return {name: round(statistics.median(each[name] for each in chosen), 1) for name in names}


def main() -> None:
    """Run the service and its clients, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m medfocus.benchmarks.serving.soak", description=__doc__
    )
    parser.add_argument("engine", type=Path, help="engine directory")
    parser.add_argument("images", type=Path, help="folder of PNG images")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    environment = environment_of(Path(), "cpu")
    files = [(name, Path(str(get_testdata_file(name))).read_bytes()) for name in DICOM]
    pictures = sorted(options.images.rglob("*.png"))[:6]
    files += [(f"{path.parent.name}/{path.name}", path.read_bytes()) for path in pictures]
    with tempfile.TemporaryDirectory() as folder:
        config, tokens = Path(folder, "serve.toml"), Path(folder, "tokens")
        config.write_text(CONFIGURATION.format(path=json.dumps(str(options.engine.resolve()))))
        tokens.write_text(f"classify {TOKEN}\nadminister {ADMINISTRATOR}\n")
        tokens.chmod(0o600)
        with serve_process(["--config", str(config), "--port", "0"]) as service:
            found = soak(service, files, options.minutes)
    found |= {
        "engine": options.engine.name,
        "processor": environment.processor,
        "date": environment.date,
        "revision": environment.revision,
    }
    atomic_write(options.out, json.dumps([found], indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
