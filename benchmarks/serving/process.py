"""A `medfocus serve` of its own, as users start it."""

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADDRESS = re.compile(r"listening on (\S+);")


@dataclass(frozen=True)
class ServeProcess:
    """A service that runs.

    Attributes:
        process: it.
        url: where it answers.
    """

    process: "subprocess.Popen[bytes]"
    url: str


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@contextmanager
def serve_process(arguments: Sequence[str], engines: int = 1) -> Iterator[ServeProcess]:
    """Start `medfocus serve`, wait until its engines answer, and end it by SIGTERM.

    Args:
        arguments: of the command.
        engines: how many it loads.

    Raises:
        RuntimeError: it ended before, or not with 0.
    """
    command = [sys.executable, "-m", "medfocus", "serve", *arguments]
    # Not to a pipe, which would have to be read all the time.
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.fileno()) as process,
    ):
        said = ""
        while said.count(" answers\n") < engines:
            if process.poll() is not None:
                raise RuntimeError(said)
            time.sleep(0.02)
            said = Path(log.name).read_text()
        address = _ADDRESS.search(said)
        assert address is not None
        try:
            yield ServeProcess(process, address[1])
        finally:
            process.terminate()
            process.wait()
            said = Path(log.name).read_text()
            sys.stderr.write(said)
        if process.returncode:
            raise RuntimeError(said)
