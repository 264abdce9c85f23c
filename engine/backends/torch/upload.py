"""How a batch's images, of whatever sizes, lie behind each other in one upload."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

Size = tuple[int, int]  # height and width


class Group(NamedTuple):
    """Images of one size: neighbours in the upload and in all other buffers of the batch.

    Attributes:
        size: of each; None where the host has resized them, for both models.
        rows: of the other buffers.
        upload: bytes of the upload.
    """

    size: Size | None
    rows: slice
    upload: slice


class Packing(NamedTuple):
    """Where each image of a batch goes.

    Attributes:
        order: the images, by their numbers in the batch, in the order of the buffers' rows.
        rows: each image's row of the buffers; uploads: its bytes of the upload.
        groups: all rows, by size.
        nbytes: of the upload.
    """

    order: list[int]
    rows: list[int]
    uploads: list[slice]
    groups: list[Group]
    nbytes: int


def pack(sizes: Sequence[Size | None], share: int) -> Packing:
    """Put images of one size together, so that slices are all that is needed to address them.

    An index, of rows that do not lie together, would be made on the host and waited for. Images
    of one size keep their order.

    Args:
        sizes: of each RGB image; None where the host resizes it.
        share: bytes that an image takes which the host has resized.
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
