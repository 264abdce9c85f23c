"""A limit on the memory of decoded images, those that are being decoded included."""

import threading


class ByteBudget:
    """Bytes that may be held at once; safe to share between threads.

    Whoever holds bytes gives them back without needing more, so nobody waits forever.

    Args:
        most: the limit. One request for more is granted if nothing else is held.

    Attributes:
        held: bytes that are held now.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most
        self._open = True
        self._changed = threading.Condition()
        # Held while waiting, so that small requests cannot overtake a large one forever.
        self._admission_lock = threading.Lock()

    def acquire(self, count: int) -> None:
        """Wait until `count` bytes may be held; after `stop`, hold them at once."""
        with self._admission_lock, self._changed:
            self._changed.wait_for(lambda: self._fits(count))
            self.held += count

    def acquire_now(self, count: int) -> bool:
        """`acquire`, if that does not have to wait; otherwise nothing."""
        if not self._admission_lock.acquire(blocking=False):
            return False
        try:
            with self._changed:
                if fits := self._fits(count):
                    self.held += count
                return fits
        finally:
            self._admission_lock.release()

    def release(self, count: int) -> None:
        """Give bytes back; a negative count takes more, without waiting."""
        with self._changed:
            self.held -= count
            self._changed.notify_all()

    def _fits(self, count: int) -> bool:
        return not (self._open and self.held) or self.held + count <= self._most

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
