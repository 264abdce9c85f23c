"""Sources of any kind, read in the test's own process."""

import os
from typing import Any

from medfocus.engine.io.images import MAX_PIXELS, SourceImage, converted
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.reader import FileReader


def read_images(
    source: Any, name: str = "the image", *, max_pixels: int = MAX_PIXELS
) -> list[SourceImage]:
    """Every image of a file, or the one that an object in memory is."""
    if isinstance(source, str | os.PathLike):
        limits = ReadingLimits(max_pixels=max_pixels)
        return FileReader(limits, trust_files=True).read_all(source)
    return [converted(source, name)]
