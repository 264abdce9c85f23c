"""`medfocus serve` as a process of its own: for signals, its death, full disks."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import httpx

from tests.waiting import wait_until


@dataclass(frozen=True)
class ServiceProcess:
    """A service that answers.

    Attributes:
        process: of it, and the leader of a group of its own.
        client: of its address; it trusts any certificate.
        folder: with its configuration `serve.toml`, `stdout` and `stderr`.
    """

    process: subprocess.Popen[bytes]
    client: httpx.Client
    folder: Path

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.client.base_url.host, self.client.base_url.port or 80

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return (self.folder / "stderr").read_text()

    @property
    def accesses(self) -> list[str]:
        """The lines of its access log."""
        return (self.folder / "stdout").read_text().splitlines()

    @property
    def pids(self) -> list[int]:
        """It and its children, of which those that decode images are."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task").glob("*/children")
        return [own, *(int(each) for path in children for each in path.read_text().split())]

    def descriptors(self) -> int:
        """How many it has open."""
        return len([*Path(f"/proc/{self.process.pid}/fd").iterdir()])

    def peak_bytes(self) -> int:
        """The most memory that it and its children have held, each at its own time."""
        found = 0
        for pid in self.pids:
            status = Path(f"/proc/{pid}/status").read_text()
            match = re.search(r"VmHWM:\s+(\d+) kB", status)
            found += int(match[1]) * 1024 if match else 0
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def serving(
    folder: Path,
    config: str,
    *,
    within: Sequence[str] = (),
    stdout: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[ServiceProcess]:
    """A service for the time of the block, ready; it may have ended by the end.

    Args:
        folder: for its files.
        config: its configuration; without a port it takes a free one.
        within: a command that runs it, as `unshare`.
        stdout: where its access log goes, in place of a file in `folder`.
        environment: variables that it has besides this process's.
    """
    if "port = " not in config:
        config = f"port = 0\n{config}"
    (folder / "serve.toml").write_text(config)
    command = [*within, sys.executable, "-m", "medfocus", "serve", "--config", "serve.toml"]
    with (
        (folder / "stderr").open("wb") as errors,
        (stdout or folder / "stdout").open("wb") as accesses,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=accesses,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield _ready(process, folder)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _ready(process: subprocess.Popen[bytes], folder: Path) -> ServiceProcess:
    def url() -> str | None:
        assert process.poll() is None, (folder / "stderr").read_text()
        match = re.search(r"listening on (https?://\S+);", (folder / "stderr").read_text())
        return match and match[1]

    wait_until(lambda: url() is not None)
    client = httpx.Client(base_url=url() or "", timeout=120, verify=False)
    wait_until(lambda: client.get("/readyz").status_code == 200)
    return ServiceProcess(process, client, folder)


def status_of(address: tuple[str, int], request: bytes) -> int | None:
    """The status of the answer to these bytes; None if the connection ends without one."""
    with socket.create_connection(address, timeout=120) as connection:
        with suppress(ConnectionError):  # answered, and closed, before all was sent
            connection.sendall(request)
        response = HTTPResponse(connection)
        try:
            response.begin()
            response.read()
        except (HTTPException, ConnectionError):
            return None
        return response.status
