"""A stand-in for CUDA's runtime and driver APIs with two GPUs, whose memory is host memory."""

# ruff: noqa: N802, N803, N815  (the names are CUDA's)

import ctypes
import threading
from typing import Any

import numpy as np
from cuda.bindings import runtime
from cuda.bindings.driver import CUresult
from cuda.bindings.runtime import cudaDeviceAttr, cudaError_t, cudaMemcpyKind


class Device:
    """The part of `cuda.bindings` that is used here; counts allocations and frees.

    Memory and streams belong to the GPU that was current in their thread, and may be used only in a
    thread where it is current again.
    """

    CUresult = CUresult
    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking

    def __init__(self, capability: tuple[int, int] = (9, 0), memory: int = 2**30) -> None:
        self.memory, self.capability = memory, capability
        self.allocated: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.allocations = 0
        self.gpus = 2
        self.owner: dict[int, int] = {}  # of each address and stream, freed ones too
        self._thread = threading.local()

    @property
    def contexts(self) -> list[int]:
        """The GPUs whose contexts this thread has pushed; it begins with none, so on the first."""
        stack: list[int] = self._thread.__dict__.setdefault("stack", [])
        return stack

    @property
    def current(self) -> int:
        return self.contexts[-1] if self.contexts else 0

    def cuInit(self, flags: int) -> tuple[Any]:
        assert flags == 0
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, int]:
        assert 0 <= ordinal < self.gpus
        return CUresult.CUDA_SUCCESS, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[Any, bytes]:
        return CUresult.CUDA_SUCCESS, f"Stand-in {device}".encode().ljust(length, b"\0")

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, int]:
        return CUresult.CUDA_SUCCESS, device

    def cuCtxPushCurrent(self, context: int) -> tuple[Any]:
        self.contexts.append(context)
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[Any, int]:
        return CUresult.CUDA_SUCCESS, self.contexts.pop()

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return cudaError_t.cudaSuccess, self.gpus

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        used = sum(
            array.nbytes
            for address, array in self.allocated.items()
            if self.owner[address] == self.current
        )
        return cudaError_t.cudaSuccess, self.memory - used, self.memory

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetDevice(self) -> tuple[Any, int]:
        return cudaError_t.cudaSuccess, self.current

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, int]:
        assert device == self.current
        major = attr == cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return cudaError_t.cudaSuccess, self.capability[0 if major else 1]

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        if sum(array.nbytes for array in self.allocated.values()) + size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, 0
        array = np.full(size, 0xA5, np.uint8)  # poison: nothing may rely on zeros
        self.allocated[array.ctypes.data] = array
        self.owner[array.ctypes.data] = self.current
        self.allocations += 1
        return cudaError_t.cudaSuccess, array.ctypes.data

    def cudaFree(self, devPtr: int) -> tuple[Any]:
        assert self.owner[devPtr] == self.current
        del self.allocated[devPtr]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = 1000 + len(self.streams)
        self.streams.add(stream)
        self.owner[stream] = self.current
        return cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        assert self.owner[stream] == self.current
        self.streams.remove(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        assert stream in self.streams
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        assert stream in self.streams
        on_device = dst if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert self.allocated[on_device].nbytes >= count
        assert self.owner[on_device] == self.owner[stream] == self.current
        ctypes.memmove(dst, src, count)
        return (cudaError_t.cudaSuccess,)
