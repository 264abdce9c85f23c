"""How much memory the bodies of all clients together may take, where they are not on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from medfocus.serving.engines import RETRY_SECONDS
from medfocus.serving.errors import BusyError

MOST_BODIES = 4  # of the largest size that may be in memory at once; or more that are smaller
MOST_PARSED = 2  # at once of those that are not small: JSON takes up to forty times its bytes
SMALL = 64 * 1024  # bytes


class BodyMemory:
    """Memory for the bodies of requests; of one event loop.

    Args:
        body_bytes: of one request, at most.
    """

    def __init__(self, body_bytes: int) -> None:
        self._most, self._taken = MOST_BODIES * body_bytes, 0
        self._parsing = CapacityLimiter(MOST_PARSED)

    def limiter(self, size: int) -> CapacityLimiter | None:
        """Of the threads that may parse a body of so many bytes; None for the usual ones."""
        return self._parsing if size > SMALL else None

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes for one request, which are given back at the end.

        It raises BusyError where there is no room for so many.
        """
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self._taken + size > self._most:
                problem = f"holds {self._taken} bytes of requests, of at most {self._most}"
                hint = f"send the request again in {RETRY_SECONDS} s"
                raise BusyError("service", problem, hint)
            own += size
            self._taken += size

        try:
            yield take
        finally:
            self._taken -= own
