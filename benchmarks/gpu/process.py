"""Child processes with a time limit: one that hangs is killed with all that it has started."""

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
    cwd: Path | None = None,
) -> int | None:
    """Run a program; its exit status, or None where it was killed after `limit` seconds.

    Args:
        command: the program and its arguments.
        limit: seconds.
        log: file for its output; with None it goes where this process's output goes.
        environment: variables besides this process's own.
        cwd: the folder to run it in.
    """
    with started(command, log, environment, cwd) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def started(
    command: Command,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> "Iterator[subprocess.Popen[bytes]]":
    """A program that is killed, with its children, when the block ends."""
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        # A process group, not a session: some machines end only what is left of a session.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=cwd, env=os.environ | (environment or {}),
            process_group=0,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
