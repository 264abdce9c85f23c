"""An item's images with the masks of its lesion, and what becomes of items that have none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from medfocus.engine.images import SourceImage, read_images
from medfocus.engine.results import printable
from medfocus.errors import ImageError
from medfocus.fewshot.data.dataset import Item

NAMED = 10  # unreadable files in one error; the others are counted


def read_item(item: Item) -> list[tuple[SourceImage, NDArray[np.float32]]]:
    """Every frame of an item's file, each with its lesion: (H, W) 1 inside and 0 outside.

    Raises:
        ImageError: the file or a mask cannot be read, or a mask is of another size.
    """
    images = read_images(item.path)
    sizes = [image.pixels.shape[:2] for image in images]
    lesions = {size: _joined(item.masks, size) for size in set(sizes)}
    return [(image, lesions[size]) for image, size in zip(images, sizes, strict=True)]


def leave_out_unreadable(items: Sequence[Item], report: Console) -> tuple[Item, ...]:
    """Those of some items that can be read; each of the others is reported, and their number.

    Raises:
        ImageError: none of them can.
    """
    good, errors = [], []
    with Progress(console=report) as progress:
        for item in progress.track(items, description="looking for unreadable files"):
            try:
                read_item(item)
            except ImageError as error:
                errors.append(error)
                report.print(f"left out: {printable(f'{error.item}: {error.problem}')}")
            else:
                good.append(item)
    if errors and not good:
        raise unreadable(errors, len(items))
    report.print(f"{len(errors)} of {len(items)} files left out")
    return tuple(good)


def unreadable(errors: Sequence[ImageError], count: int) -> ImageError:
    """One error for all of them, of `count` files."""
    named = [f"{error.item} ({error.problem})" for error in errors[:NAMED]]
    more = [f"{len(errors) - NAMED} more"] if len(errors) > NAMED else []
    return ImageError(
        f"{len(errors)} of {count} files",
        f"cannot be used: {'; '.join(named + more)}",
        "mend or remove them, or leave them out with --skip-bad",
    )


def _joined(masks: Sequence[Path], size: tuple[int, ...]) -> NDArray[np.float32]:
    joined = np.zeros(size, np.float32)
    for path in masks:
        try:
            with Image.open(path) as image:
                mask = np.asarray(image.convert("L")) > 127
        except OSError as error:
            raise ImageError(str(path), f"cannot be read ({error})", "check the mask") from error
        if mask.shape != size:
            raise ImageError(
                str(path), f"of {mask.shape}, on an image of {size}", "give a mask of its size"
            )
        joined = np.maximum(joined, mask)
    return joined
