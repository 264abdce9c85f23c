"""What reading one image may take."""

from dataclasses import dataclass

from medfocus.engine.io.images import MAX_PIXELS
from medfocus.errors import InputError


@dataclass(frozen=True)
class ReadingLimits:
    """Limits on reading one image: a frame, of a file of several.

    Attributes:
        seconds: of processor time; while it waits for a disk it may take six times as long.
        most_bytes: memory of the reading process, beyond what its code takes.
        max_pixels: rows × columns.
        max_frames: images of one file; None for any number.
    """

    seconds: float = 10.0
    most_bytes: int = 3 * 2**29
    max_pixels: int = MAX_PIXELS
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            hint = "use more than 0, and up to 3600"
            raise InputError("read_seconds", f"is {self.seconds}", hint)
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError("max_frames", f"is {self.max_frames}", "use 1 or more, or None")
