"""Sources of any kind, read in the test's own process."""

import os
from pathlib import Path
from typing import Any

from pydicom.data import get_testdata_file

from medfocus.engine.io.images import MAX_PIXELS, SourceImage, converted
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader


def shipped(name: str) -> Path:
    """A file of pydicom's collection."""
    return Path(str(get_testdata_file(name, download=False)))


def read_images(
    source: Any, name: str = "the image", *, max_pixels: int = MAX_PIXELS
) -> list[SourceImage]:
    """Every image of a file, or the one that an object in memory is."""
    if isinstance(source, str | os.PathLike):
        limits = ReadingLimits(max_pixels=max_pixels)
        return FileReader(limits, trust_files=True).read_all(source)
    return [converted(source, name)]
