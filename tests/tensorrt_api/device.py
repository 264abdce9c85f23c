"""A stand-in for the CUDA runtime API whose device memory is host memory."""

# ruff: noqa: N802, N803, N815  (the names are CUDA's)

import ctypes
from typing import Any

import numpy as np
from cuda.bindings import runtime
from cuda.bindings.runtime import cudaDeviceAttr, cudaError_t, cudaMemcpyKind


class Device:
    """The part of `cuda.bindings.runtime` that is used here; counts allocations and frees."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking

    def __init__(self, capability: tuple[int, int] = (9, 0), memory: int = 2**30) -> None:
        self.memory, self.capability = memory, capability
        self.allocated: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.allocations = 0

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetDevice(self) -> tuple[Any, int]:
        return cudaError_t.cudaSuccess, 0

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, int]:
        major = attr == cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return cudaError_t.cudaSuccess, self.capability[0 if major else 1]

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        if sum(array.nbytes for array in self.allocated.values()) + size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, 0
        array = np.full(size, 0xA5, np.uint8)  # poison: nothing may rely on zeros
        self.allocated[array.ctypes.data] = array
        self.allocations += 1
        return cudaError_t.cudaSuccess, array.ctypes.data

    def cudaFree(self, devPtr: int) -> tuple[Any]:
        del self.allocated[devPtr]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = 1000 + len(self.streams)
        self.streams.add(stream)
        return cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        self.streams.remove(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        assert stream in self.streams
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        assert stream in self.streams
        on_device = dst if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert self.allocated[on_device].nbytes >= count
        ctypes.memmove(dst, src, count)
        return (cudaError_t.cudaSuccess,)
