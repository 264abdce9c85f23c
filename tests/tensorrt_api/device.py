"""A stand-in for CUDA's runtime and driver APIs with two GPUs, whose memory is host memory.

Work on a stream is done as late as CUDA allows, when a thread waits for it or another stream does:
what relies on luck reads poison, or what was there before.
"""

# ruff: noqa: N802, N803, N815  (the names are CUDA's)

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime
from cuda.bindings.driver import CUresult
from cuda.bindings.runtime import (
    cudaDeviceAttr,
    cudaError_t,
    cudaMemcpyKind,
    cudaStreamCaptureMode,
)

Work = Callable[[], object]


class Event:
    """What was submitted to a stream up to some time."""

    def __init__(self, stream: int) -> None:
        self.stream, self.happened = stream, False

    def happen(self) -> None:
        self.happened = True


class Device:
    """The part of `cuda.bindings` that is used here; counts allocations and frees.

    Memory, streams and events belong to the GPU that was current in their thread, and may be used
    only in a thread where it is current again.

    Attributes:
        launched: how often a graph was.
        copied: bytes of each copy, and whether its host memory was pinned, by the kind of the copy.
        refuses_capture: whether captures fail.
    """

    CUresult = CUresult
    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaEventBlockingSync = runtime.cudaEventBlockingSync
    cudaEventDisableTiming = runtime.cudaEventDisableTiming

    def __init__(self, capability: tuple[int, int] = (9, 0), memory: int = 2**30) -> None:
        self.memory, self.capability = memory, capability
        self.allocated: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.allocations = 0
        self.gpus = 2
        self.owner: dict[int, int] = {}  # of each address and stream, freed ones too
        self.pinned: dict[int, Any] = {}
        self.events: dict[int, Event | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.launched = 0
        self.copied: list[tuple[Any, int, bool]] = []
        self.refuses_capture = False
        self._queues: dict[int, deque[Work]] = {}
        self._captures: dict[int, list[Work] | None] = {}
        self._handles = 1000
        self._lock = threading.RLock()
        self._thread = threading.local()

    def enqueue(self, stream: int, work: Work) -> None:
        """Submit work to a stream, or to the graph that is captured on it."""
        with self._lock:
            assert stream in self.streams
            assert self.owner[stream] == self.current
            if stream not in self._captures:
                self._queues[stream].append(work)
            elif (captured := self._captures[stream]) is not None:
                captured.append(work)

    def capturing(self, stream: int) -> bool:
        return stream in self._captures

    def spoil_capture(self, stream: int) -> None:
        """Do what may not be captured."""
        self._captures[stream] = None

    def _reach(self, event: Event) -> None:
        with self._lock:
            while not event.happened:
                self._queues[event.stream].popleft()()

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

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
        stream = self._handle()
        self.streams.add(stream)
        self.owner[stream], self._queues[stream] = self.current, deque()
        return cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        assert self.owner[stream] == self.current
        self.streams.remove(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags & self.cudaEventBlockingSync, "threads that wait must not spin"
        event = self._handle()
        self.events[event], self.owner[event] = None, self.current
        return cudaError_t.cudaSuccess, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]:
        assert self.owner[event] == self.owner[stream]
        self.events[event] = recorded = Event(stream)
        self.enqueue(stream, recorded.happen)
        return (cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:
        if recorded := self.events[event]:
            self._reach(recorded)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any]:
        if recorded := self.events[event]:
            self.enqueue(stream, lambda: self._reach(recorded))
        return (cudaError_t.cudaSuccess,)

    def cudaEventDestroy(self, event: int) -> tuple[Any]:
        assert self.owner[event] == self.current
        del self.events[event]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any]:
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert not self._queues[stream], "what is captured must not depend on earlier work"
        self._captures[stream] = []
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, int]:
        work = self._captures.pop(stream)
        if work is None or self.refuses_capture:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, 0
        graph = self._handle()
        self.graphs[graph] = work
        return cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, int]:
        executable = self._handle()
        self.graphs[executable] = self.graphs[graph]
        return cudaError_t.cudaSuccess, executable

    def cudaGraphDestroy(self, graph: int) -> tuple[Any]:
        del self.graphs[graph]
        return (cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any]:
        return self.cudaGraphDestroy(graphExec)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any]:
        self.launched += 1
        for work in self.graphs[graphExec]:
            self.enqueue(stream, work)
        return (cudaError_t.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]:
        array = np.full(size, 0xA5, np.uint8)
        self.pinned[array.ctypes.data] = array
        return cudaError_t.cudaSuccess, array.ctypes.data

    def cudaFreeHost(self, ptr: int) -> tuple[Any]:
        del self.pinned[ptr]
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        up = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        on_device, on_host = (dst, src) if up else (src, dst)
        owner = next(
            self.owner[address]
            for address, array in list(self.allocated.items())
            if address <= on_device and on_device + count <= address + array.nbytes
        )
        assert owner == self.owner[stream] == self.current
        pinned = any(
            address <= on_host and on_host + count <= address + array.nbytes
            for address, array in list(self.pinned.items())
        )
        self.copied.append((kind, count, pinned))
        if pinned:
            self.enqueue(stream, lambda: ctypes.memmove(dst, src, count))
        elif up:  # staged before the call returns
            staged = ctypes.string_at(src, count)
            self.enqueue(stream, lambda: ctypes.memmove(dst, staged, count))
        else:
            self.enqueue(stream, lambda: ctypes.memmove(dst, src, count))
            self.enqueue(stream, (end := Event(stream)).happen)
            self._reach(end)
        return (cudaError_t.cudaSuccess,)
