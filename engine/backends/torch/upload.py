"""Packing a batch's images, of any sizes, into one contiguous upload."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

Size = tuple[int, int, float]  # height, width, a pixel's height over its width


class Group(NamedTuple):
    """Images of one size: contiguous in the upload and in all other buffers of the batch.

    Attributes:
        size: height and width; None for images that the host has resized, for both models.
        rows: their rows of the other buffers.
        upload: their bytes of the upload.
    """

    size: Size | None
    rows: slice
    upload: slice


class Packing(NamedTuple):
    """Where each image of a batch is placed.

    Attributes:
        order: the images' indices in the batch, in the order of the buffers' rows.
        rows: each image's row of the buffers.
        uploads: each image's bytes of the upload.
        groups: all rows, by size.
        nbytes: size of the upload.
    """

    order: list[int]
    rows: list[int]
    uploads: list[slice]
    groups: list[Group]
    nbytes: int


def pack(sizes: Sequence[Size | None], share: int) -> Packing:
    """Place images of one size together, so that a slice addresses them.

    Indexing scattered rows would need an index tensor, made on the host and waited for. Images of
    one size keep their order.

    Args:
        sizes: of each RGB image; None if the host resizes it.
        share: bytes of an image that the host has resized.
    """
    order = sorted(range(len(sizes)), key=lambda image: sizes[image] or ())
    rows, uploads = [0] * len(sizes), [slice(0)] * len(sizes)
    groups: list[Group] = []
    row = end = 0
    for size, members in groupby(order, key=lambda image: sizes[image]):
        first_row, begin = row, end
        nbytes = share if size is None else 3 * size[0] * size[1]
        for image in members:
            rows[image], uploads[image] = row, slice(end, end + nbytes)
            row, end = row + 1, end + nbytes
        groups.append(Group(size, slice(first_row, row), slice(begin, end)))
    return Packing(order, rows, uploads, groups, end)
