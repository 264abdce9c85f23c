"""NIfTI files to 8-bit slices, decoded one at a time: header and voxels by nibabel."""

import gzip
import zlib
from typing import Any, BinaryIO, cast

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from medfocus.engine.io.arrays import check_size
from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.volumes.nifti_header import NiftiHeader, damaged, read_header
from medfocus.engine.io.volumes.nifti_levels import Window, shown, window_of
from medfocus.engine.io.volumes.parts import MOST_PARTS, Part
from medfocus.engine.io.volumes.planes import planes
from medfocus.errors import ImageError

ORIENTATION_UNKNOWN = Notice(
    "pixels.orientation_unknown", "the file says nothing of its orientation: it may be mirrored"
)
_INFLATED = 16  # times the limit on an image's pixels: bytes of a whole file
# Bytes of a volume whose slices are spread over it; smaller ones are held, larger ones are read
# again for each slice.
_HELD = 2**27
_SAMPLING = 2**25  # bytes that finding a window takes

Voxels = NDArray[Any]


class NiftiFile:
    """A NIfTI file, compressed or not; its slices are frames, those of its first volume first.

    Args:
        file: open at its start; has to stay open.
        name: of the file, in errors.
        max_pixels: limit on a slice.

    Attributes:
        volumes: how many volumes it holds, of `depth` slices each.
        depth: slices of a volume.
        frames: how many it holds; one more if some that it announces are missing.

    Raises:
        ImageError: see `read_header`; or too large.
    """

    def __init__(self, file: BinaryIO, name: str, max_pixels: int) -> None:
        self._name = name
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        # `mtime` and names in gzip's own header are not read.
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file
        try:
            header = read_header(stream, name)
        except (OSError, EOFError, zlib.error):
            raise damaged(name) from None
        self._header = header
        self._planes = planes(header.shape[:3], header.affine)
        self._proxy = ArrayProxy(stream, _stored_form(header), mmap=False)
        self._check_size(max_pixels)
        self.depth, self.volumes = self._planes.slices.length, header.shape[3]
        self.frames = self.depth * self.volumes
        self._windows: dict[int, Window] = {}
        self._held: tuple[int, Voxels] | None = None  # a volume's number and its voxels

    @property
    def decoding_bytes(self) -> int:
        """See `ImageFile`: stored values twice, levels, and what is held."""
        slab, plane = self._pixels
        stored = 2 * self._header.dtype.itemsize
        held = 0 if self._contiguous else self._holding
        return slab * stored + plane * (stored + 4) + held + _SAMPLING

    def frame(self, index: int) -> Frame:
        """See `ImageFile`."""
        volume, place = divmod(index, self.depth)
        window = self._window(volume)
        if index >= self.frames - 1 and window.slabs < self._header.shape[2]:
            raise ImageError(
                self._name,
                f"its voxels end before slice {place} is complete",
                "copy the file again, or write it again",
                code="image.truncated",
            )
        view = self._planes
        values = self._plane(volume, view.slices.stored(place))
        if view.rows.axis > view.columns.axis:
            values = values.swapaxes(0, 1)
        if view.rows.reverse:
            values = values[::-1]
        if view.columns.reverse:
            values = values[:, ::-1]
        pixels, notices = shown(np.ascontiguousarray(values), window, self._header)
        if not self._header.oriented:
            notices = (*notices, ORIENTATION_UNKNOWN)
        return Frame(pixels, notices, view.pixel_aspect)

    def parts(self) -> list[Part]:
        """One for each volume.

        Raises:
            ImageError: more than `MOST_PARTS`.
        """
        if self.volumes > MOST_PARTS:
            problem = f"has {self.volumes} volumes"
            raise ImageError(self._name, problem, "split it", code="image.too_large")
        return [Part(number * self.depth, self.depth) for number in range(self.volumes)]

    @property
    def _contiguous(self) -> bool:
        """Whether a slice is one piece of the file."""
        return self._planes.slices.axis == 2

    @property
    def _holding(self) -> int:
        """Bytes of a volume, if one is held."""
        size = int(np.prod(self._header.shape[:3])) * self._header.dtype.itemsize
        return size if size <= _HELD else 0

    @property
    def _pixels(self) -> tuple[int, int]:
        """Voxels of a slab, which is read at once, and of a slice."""
        shape, view = self._header.shape, self._planes
        return shape[0] * shape[1], view.rows.length * view.columns.length

    def _check_size(self, max_pixels: int) -> None:
        for pixels in self._pixels:
            check_size(pixels, self._name, max_pixels)
        if self._header.nbytes > _INFLATED * max_pixels:
            problem = f"holds more than {_INFLATED * max_pixels} bytes of voxels"
            hint = "split it into volumes"
            raise ImageError(self._name, problem, hint, code="image.too_large")

    def _window(self, volume: int) -> Window:
        """Found by reading the whole volume once, unless the voxels are colours."""
        if volume not in self._windows:
            depth = self._header.shape[2]
            slabs = (self._slab(volume, number) for number in range(depth))
            self._windows[volume] = window_of(slabs, self._header)
            whole = self._windows[volume].slabs
            if whole < depth:  # the file ends in this volume
                slices = whole if self._contiguous and not self._planes.slices.reverse else 0
                self.frames = min(self.frames, volume * self.depth + slices + 1)
        return self._windows[volume]

    def _slab(self, volume: int, number: int) -> Voxels | None:
        """Stored values (X, Y) or (X, Y, 3) of one place on the third axis; None if cut off."""
        try:
            if self._header.colour:
                return np.moveaxis(np.asarray(self._proxy[:, :, :, number, volume]), 0, -1)
            values: Voxels = np.asarray(self._proxy[:, :, number, volume])
            return values.astype(values.dtype.newbyteorder("="), copy=False)
        except (OSError, EOFError, ValueError, zlib.error):  # nibabel's text may hold a path
            return None

    def _plane(self, volume: int, place: int) -> Voxels:
        """Stored values of a slice: the two other axes in their stored order."""
        axis, depth = self._planes.slices.axis, self._header.shape[2]
        if self._contiguous:
            return self._whole_slab(volume, place)
        if not self._holding:
            lines = [self._whole_slab(volume, n).take(place, axis) for n in range(depth)]
            return np.stack(lines, axis=1)
        if self._held is None or self._held[0] != volume:
            self._held = None  # the former's memory is needed
            slabs = [self._whole_slab(volume, number) for number in range(depth)]
            self._held = volume, np.stack(slabs, axis=2)
        plane: Voxels = self._held[1].take(place, axis)
        return plane

    def _whole_slab(self, volume: int, number: int) -> Voxels:
        slab = self._slab(volume, number)
        if slab is None:
            raise damaged(self._name)
        return slab


def _stored_form(header: NiftiHeader) -> tuple[tuple[int, ...], "np.dtype[Any]", int]:
    """Shape, type and offset for nibabel; of colours the samples are the first, fastest axis."""
    if header.colour:
        return (3, *header.shape), np.dtype("u1"), header.offset
    return header.shape, header.dtype, header.offset
