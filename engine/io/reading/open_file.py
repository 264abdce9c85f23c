"""A file that is open for reading, and what reading an image of it gives."""

import threading
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.image_file import ImageFile
from medfocus.errors import MedfocusError


class Reading(NamedTuple):
    """One image of a file, or why it cannot be read.

    Attributes:
        frames: how many images the file holds, as far as is known by now; with what is missing of
            those that it announces as one more.
        outcome: the image or the error.
    """

    frames: int
    outcome: Frame | MedfocusError


@dataclass(eq=False)
class OpenFile:
    """Open until `close` was called and nobody reads it any more: who does, does so `with` it.

    Attributes:
        name: of the file, in errors and results.
        file: its bytes.
        opened: its header, once it was read in this process; `lock` is held for its use.
    """

    name: str
    file: BinaryIO
    opened: ImageFile | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    _users: int = 1
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def descriptor(self) -> int:
        """What the system knows it by."""
        return self.file.fileno()

    def __enter__(self) -> "OpenFile":
        with self._counting:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back, once nobody else needs it."""
        with self._counting:
            self._users -= 1
            if not self._users:
                self.opened = None
                self.file.close()
