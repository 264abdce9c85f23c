"""Waiting for another process or thread without a guess at how long it takes."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll a condition; only one that never comes true reaches the deadline."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
