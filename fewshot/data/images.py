"""Reads an item's images and lesion masks; reports or skips items that cannot be used."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from medfocus.engine.io.images import SourceImage
from medfocus.engine.io.reading.reader import read_images
from medfocus.errors import ImageError
from medfocus.fewshot.data.dataset import Dataset, Item
from medfocus.fewshot.data.splitting.leaks import leave_out_copies
from medfocus.terminal import printable

WHITE = 128  # lesion pixels have at least this value; lossy files have no pure black
NAMED = 10  # unreadable files named in one error; the rest are counted


def read_item(item: Item) -> list[tuple[SourceImage, NDArray[np.float32]]]:
    """Every frame of an item's file with its lesion mask: (H, W), 1 inside and 0 outside.

    Raises:
        ImageError: the file or a mask cannot be read, or a mask has another size or is all dark.
    """
    images = read_images(item.path)
    sizes = [image.pixels.shape[:2] for image in images]
    lesions = {size: _union(item.masks, size) for size in set(sizes)}
    return [(image, lesions[size]) for image, size in zip(images, sizes, strict=True)]


def content_hash(image: SourceImage) -> str:
    """SHA-256 of an image's shape and pixels, independent of the file format."""
    digest = sha256(str(image.pixels.shape).encode())
    digest.update(np.ascontiguousarray(image.pixels).data)
    return digest.hexdigest()


def leave_out_unreadable(
    items: Sequence[Item], prepare: Callable[[SourceImage], object], report: Console
) -> dict[Item, tuple[str, ...]]:
    """The items that can be used, with the `content_hash` of each frame.

    The others are reported by name.

    Args:
        items: all of them are read.
        prepare: raises an ImageError if a model cannot take an image.
        report: receives one line per skipped file.

    Raises:
        ImageError: none of the items can be used.
    """
    good: dict[Item, tuple[str, ...]] = {}
    errors = []
    with Progress(console=report) as progress:
        for item in progress.track(items, description="checking files"):
            try:
                images = [image for image, _ in read_item(item)]
                for image in images:
                    prepare(image)
            except ImageError as error:
                errors.append(error)
                report.print(f"left out: {printable(f'{error.item}: {error.problem}')}")
            else:
                good[item] = tuple(map(content_hash, images))
    if errors and not good:
        raise unreadable(errors, len(items))
    return good


def leave_out_bad(
    dataset: Dataset, prepare: Callable[[SourceImage], object], report: Console
) -> Dataset:
    """A data set without the files that would be refused: unreadable ones, and copies by pixels.

    Raises:
        ImageError: none of the files can be used.
    """
    pixels = leave_out_unreadable(dataset.items, prepare, report)
    kept = leave_out_copies(replace(dataset, items=tuple(pixels)), pixels, report)
    report.print(f"{dataset.name}: {len(dataset.items) - len(kept.items)} files left out")
    return kept


def unreadable(errors: Sequence[ImageError], count: int) -> ImageError:
    """One error that sums up the errors of `count` files."""
    named = [f"{error.item} ({error.problem})" for error in errors[:NAMED]]
    more = [f"{len(errors) - NAMED} more"] if len(errors) > NAMED else []
    return ImageError(
        f"{len(errors)} of {count} files",
        f"cannot be used: {'; '.join(named + more)}",
        "fix or remove them, or leave them out with --skip-bad",
    )


def _union(masks: Sequence[Path], size: tuple[int, ...]) -> NDArray[np.float32]:
    union = np.zeros(size, np.float32)
    for path in masks:
        (mask, *more) = (image.pixels.max(-1) for image in read_images(path))
        if more or mask.shape != size:
            frames = f" in {1 + len(more)} frames" if more else ""
            raise ImageError(
                str(path),
                f"is a mask of {mask.shape}{frames} for an image of {size}",
                "provide a mask of the image's size",
                code="image.invalid_mask",
            )
        if 0 < mask.max() < WHITE:
            raise ImageError(
                str(path),
                f"is a mask nowhere brighter than {mask.max()} of 255",
                "paint the lesion white",
                code="image.invalid_mask",
            )
        union = np.maximum(union, mask >= WHITE)
    return union
