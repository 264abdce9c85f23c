"""Recognising each runtime's out-of-memory errors, and measuring what a block takes."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from medfocus.engine.runtime.memory import clear_frames, is_out_of_memory
from medfocus.errors import DeviceError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[CPU] Convolution node with name 'node_conv2d' can't alloc"),
        RuntimeError(
            "Check 'ptr' failed at cpu_memory.cpp:257: Failed to allocate 8 bytes of memory"
        ),
        RuntimeError("[CPU] FullyConnected node with name 'a' std::future_error: Broken promise"),
        RuntimeError("could not create a memory object"),
        DeviceError("segmenter.plan", "Error Code 2: OutOfMemory (no further information)", "-"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_errors_of_each_runtime(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))


def test_clear_frames_releases_what_an_error_and_its_causes_hold() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def fails() -> None:
        activations = np.zeros(10)
        alive.append(weakref.ref(activations))
        raise MemoryError

    def wraps() -> None:
        buffers = np.zeros(10)
        alive.append(weakref.ref(buffers))
        try:
            fails()
        except MemoryError as error:
            raise DeviceError("cpu", "has no memory", "free some") from error

    gc.disable()  # releasing must not depend on the collector
    try:
        with pytest.raises(DeviceError) as caught:
            wraps()
        assert [held() is None for held in alive] == [False, False]
        clear_frames(caught.value)
        assert [held() is None for held in alive] == [True, True]
    finally:
        gc.enable()


PEAK = """
import numpy as np
from medfocus.engine.runtime.memory import measured
with measured() as usage:
    array = np.ones(200_000_000, np.uint8)
    del array
print(usage.cpu)
"""


def test_a_block_is_measured_at_its_peak() -> None:
    # In a process of its own: in this one, memory of other tests may be freed at any time.
    found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 190e6 < int(found.stdout) < 400e6
