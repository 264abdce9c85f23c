"""Programs of their own, for a limited time: what hangs is killed with all that it has started."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

Command = Sequence[str]


def status_of(
    command: Command,
    limit: float,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int | None:
    """Run a program; its exit status, or None where it was killed after `limit` seconds.

    Args:
        command: the program and its arguments.
        limit: seconds.
        log: the file for what it says; with None it speaks where this process does.
        environment: variables besides this process's own.
    """
    with ExitStack() as until:
        process = until.enter_context(_started(command, log, environment or {}))
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def beside(commands: Mapping[str, Command], folder: Path) -> Iterator[None]:
    """Let programs run until the block ends, when they are killed; what they say is in `folder`."""
    with ExitStack() as until:
        for name, command in commands.items():
            until.enter_context(_started(command, folder / f"warm-up-{name}.log", {}))
        yield


@contextmanager
def _started(
    command: Command, log: Path | None, environment: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    with ExitStack() as until:
        words = None if log is None else until.enter_context(log.open("wb"))
        # A group and no session of its own: the device machine ends what is left of a session.
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env=os.environ | environment, process_group=0
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it, whenever, finds all of it or what was there before."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)
