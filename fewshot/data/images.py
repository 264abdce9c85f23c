"""An item's images with the masks of its lesion, and what becomes of items that have none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from medfocus.engine.io.images import SourceImage, read_images
from medfocus.engine.io.results import printable
from medfocus.errors import ImageError
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.splitting.leaks import leave_out_copies

WHITE = 128  # a mask's pixel is of the lesion from here on; lossy files are nowhere quite black
NAMED = 10  # unreadable files in one error; the others are counted


def read_item(item: Item) -> list[tuple[SourceImage, NDArray[np.float32]]]:
    """Every frame of an item's file, each with its lesion: (H, W) 1 inside and 0 outside.

    Raises:
        ImageError: the file or a mask cannot be read, or a mask is of another size or all dark.
    """
    images = read_images(item.path)
    sizes = [image.pixels.shape[:2] for image in images]
    lesions = {size: _joined(item.masks, size) for size in set(sizes)}
    return [(image, lesions[size]) for image, size in zip(images, sizes, strict=True)]


def leave_out_unreadable(
    items: Sequence[Item], prepare: Callable[[SourceImage], object], report: Console
) -> tuple[Item, ...]:
    """Those of some items that can be used; each of the others is reported, and their number.

    Args:
        items: to be read, all of them.
        prepare: raises an ImageError where a model cannot take an image.
        report: is told.

    Raises:
        ImageError: none of them can be used.
    """
    good, errors = [], []
    with Progress(console=report) as progress:
        for item in progress.track(items, description="looking for unreadable files"):
            try:
                for image, _ in read_item(item):
                    prepare(image)
            except ImageError as error:
                errors.append(error)
                report.print(f"left out: {printable(f'{error.item}: {error.problem}')}")
            else:
                good.append(item)
    if errors and not good:
        raise unreadable(errors, len(items))
    return tuple(good)


def leave_out_bad(
    dataset: Dataset, prepare: Callable[[SourceImage], object], report: Console
) -> Dataset:
    """A data set without the files that would be refused: unreadable ones, and copies.

    Raises:
        ImageError: none of the files can be used.
    """
    items = leave_out_unreadable(dataset.items, prepare, report)
    kept = leave_out_copies(replace(dataset, items=items), report)
    report.print(f"{dataset.name}: {len(dataset.items) - len(kept.items)} files left out")
    return kept


def unreadable(errors: Sequence[ImageError], count: int) -> ImageError:
    """One error for all of them, of `count` files."""
    named = [f"{error.item} ({error.problem})" for error in errors[:NAMED]]
    more = [f"{len(errors) - NAMED} more"] if len(errors) > NAMED else []
    return ImageError(
        f"{len(errors)} of {count} files",
        f"cannot be used: {'; '.join(named + more)}",
        "hint or remove them, or leave them out with --skip-bad",
    )


def _joined(masks: Sequence[Path], size: tuple[int, ...]) -> NDArray[np.float32]:
    joined = np.zeros(size, np.float32)
    for path in masks:
        (mask, *more) = (image.pixels.max(-1) for image in read_images(path))
        if more or mask.shape != size:
            frames = f" in {1 + len(more)} frames" if more else ""
            raise ImageError(
                str(path), f"of {mask.shape}{frames}, on an image of {size}", "give one of its size"
            )
        if 0 < mask.max() < WHITE:
            raise ImageError(
                str(path), f"is nowhere brighter than {mask.max()} of 255", "paint the lesion white"
            )
        joined = np.maximum(joined, mask >= WHITE)
    return joined
