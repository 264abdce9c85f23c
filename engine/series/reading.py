"""What a source says of its images' place in a series."""

import os
from pathlib import Path

from medfocus.engine.io.image_file import open_path
from medfocus.engine.io.images import ImageSource
from medfocus.engine.io.in_memory import InMemoryFile, copied
from medfocus.engine.io.reading.open_file import OpenFile
from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.volumes.parts import WHOLE, Part
from medfocus.errors import ImageError, InputError, MedfocusError


def rereadable(source: ImageSource, name: str) -> ImageSource:
    """A source that can be read twice: the header first, and its pixels in the series' order.

    One that cannot be copied stays what it is, and fails when it is answered.

    Raises:
        InputError: an array or a picture in memory (`input.no_series`).
    """
    if isinstance(source, str | os.PathLike):
        return source
    if not isinstance(source, InMemoryFile):
        problem = "is no file, and so belongs to no series"
        hint = "give files, or classify it without group"
        raise InputError(name, problem, hint, code="input.no_series")
    try:
        with copied(source, name) as memory:
            return memory.read()
    except ImageError:
        return source


def parts_of(source: ImageSource, name: str, reader: FileReader) -> list[Part]:
    """The parts of a source; one, if it cannot be read, and then it fails when it is answered.

    Args:
        source: from `rereadable`.
        name: of the source.
        reader: reads it.

    Raises:
        DeviceError: a reading process cannot be started.
    """
    try:
        if isinstance(source, str | os.PathLike):
            file = OpenFile(name, open_path(Path(source), name))
        else:
            assert isinstance(source, InMemoryFile)
            file = OpenFile(name, copied(source, name))
    except MedfocusError:
        return [WHOLE]
    try:
        parts = reader.parts(file)
    finally:
        file.close()
    return [WHOLE] if isinstance(parts, MedfocusError) else parts
