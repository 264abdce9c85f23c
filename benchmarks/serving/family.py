"""A process with those that it started: idle or not, stopped for a while, ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

IDLE_CORES = 0.2  # LitServe's polling takes a tenth of a core
IDLE_SECONDS = 1.0
MOST_SECONDS = 300.0  # of waiting
GRACE_SECONDS = 10.0


class Family:
    """A process and its children, and theirs.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._own = psutil.Process(pid)

    def wait_until_idle(self) -> None:
        """Wait until it uses less than `IDLE_CORES` for `IDLE_SECONDS`.

        Raises:
            RuntimeError: it does not come to rest.
        """
        end, spent = time.monotonic() + MOST_SECONDS, self._seconds()
        while time.monotonic() < end:
            time.sleep(IDLE_SECONDS)
            before, spent = spent, self._seconds()
            if spent - before < IDLE_CORES * IDLE_SECONDS:
                return
        raise RuntimeError(f"process {self._own.pid} is not idle after {MOST_SECONDS:g} s")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Take no turn on the processor within."""
        self._each(psutil.Process.suspend)
        try:
            yield
        finally:
            self._each(psutil.Process.resume)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Go on within `stopped`."""
        self._each(psutil.Process.resume)
        try:
            yield
        finally:
            self._each(psutil.Process.suspend)

    def end(self) -> None:
        """Ask all to end, and end those that do not."""
        members = self._members()
        for how in (psutil.Process.terminate, psutil.Process.kill):
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    how(member)
            _, members = psutil.wait_procs(members, GRACE_SECONDS)

    def _members(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._own, *self._own.children(recursive=True)]
        return []

    def _each(self, act: Callable[[psutil.Process], None]) -> None:
        for member in self._members():
            with suppress(psutil.NoSuchProcess):
                act(member)

    def _seconds(self) -> float:
        spent = 0.0
        for member in self._members():
            with suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                spent += times.user + times.system
        return spent
