"""One writer at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sole_writer(lock: Path) -> Iterator[bool]:
    """Hold a lock that the system releases if this process dies.

    Args:
        lock: a file that is made for it, and removed at the end.

    Yields:
        Whether it is held; if not, another process holds it.

    Raises:
        OSError: the file cannot be made or locked.
    """
    with lock.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A writer that ended between our opening and our locking has removed that file.
            held = os.path.samestat(os.fstat(stream.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        try:
            yield held
        finally:
            if held:
                lock.unlink()
