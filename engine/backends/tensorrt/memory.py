"""Memory of a GPU, and of the host for copies to and from it; of the thread's current GPU."""

import ctypes
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medfocus.engine.runtime.cuda import Stream, call


class Buffer:
    """GPU memory that is reallocated only to grow."""

    def __init__(self) -> None:
        self._address = 0
        self._bytes = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; growing discards the contents."""
        if size > self._bytes:
            self.close()
            self._address, self._bytes = int(call("cudaMalloc", size)), size
        return self._address

    def close(self) -> None:
        """Free the memory."""
        if self._address:
            address, self._address, self._bytes = self._address, 0, 0
            call("cudaFree", address)


class Pinned:
    """Host memory that the GPU copies from and to directly, as an array of zeros."""

    def __init__(self, dtype: DTypeLike, *shape: int) -> None:
        size = max(prod(shape) * np.dtype(dtype).itemsize, 1)
        self._address = int(call("cudaHostAlloc", size, 0))
        memory = (ctypes.c_char * size).from_address(self._address)
        self.array: NDArray[Any] = np.ndarray(shape, dtype, memoryview(memory))
        self.array[...] = 0

    def close(self) -> None:
        """Free the memory; the array must not be used afterwards."""
        call("cudaFreeHost", self._address)


class HostDeviceBuffer:
    """An array in pinned memory and one on the GPU, of rows that are copied between them.

    Args:
        owner: frees both when it is closed.
        dtype: of the elements.
        shape: the first dimension are the rows.

    Attributes:
        host: the array, of zeros at first.
        address: of the GPU's memory, whose contents are undefined at first.
    """

    def __init__(self, owner: ExitStack, dtype: DTypeLike, *shape: int) -> None:
        pinned, device = Pinned(dtype, *shape), Buffer()
        owner.callback(pinned.close)
        owner.callback(device.close)
        self.host = pinned.array
        self.address = device.reserve(self.host.nbytes)

    def up(self, stream: Stream, rows: slice) -> None:
        """Start copying some rows to the GPU."""
        part = self.host[rows]
        stream.upload(part, self.address + (rows.start or 0) * self.host[0].nbytes)

    def down(self, stream: Stream, count: int) -> None:
        """Start copying the first `count` rows to the host."""
        stream.download(self.address, self.host[:count])
