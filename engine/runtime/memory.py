"""Memory: recognising out-of-memory errors of each runtime, and measuring what a block takes."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medfocus.engine.runtime import cuda
from medfocus.errors import DeviceError, MedfocusError

_RESETS_THE_PEAK = Path("/proc/self/clear_refs")  # proc(5); not every kernel has it

OOM_PATTERNS = (
    "out of memory",  # CUDA, PyTorch
    "outofmemory",  # TensorRT
    "alloc_failed",  # cuBLAS, cuDNN
    "failed to allocate",  # ONNX Runtime, OpenVINO
    "can't alloc",  # OpenVINO
    "broken promise",  # OpenVINO: another of its threads was to make what this one waits for
    "bad_alloc",  # C++, through OpenVINO
    "bad allocation",
    "allocate memory",  # PyTorch on a CPU, OpenVINO
    "not enough memory",  # PyTorch on a CPU
    "could not create a memory object",  # oneDNN, in OpenVINO and PyTorch
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; the runtimes share no exception class for it."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(pattern in message for pattern in OOM_PATTERNS)


def no_memory_for(source: str, action: str, error: BaseException) -> DeviceError:
    """The error of one image that is itself too large for the memory there is.

    Args:
        source: the image.
        action: what could not be done to it, a verb.
        error: the out-of-memory error; its text is not repeated, for it may quote the file.
    """
    problem = f"there is no memory to {action} it ({type(error).__name__})"
    return DeviceError(source, problem, "free some, or shrink it", code="device.out_of_memory")


def clear_frames(error: BaseException) -> None:
    """Release what the frames of an error, and of the errors that caused it, keep alive.

    A caller who keeps the error, to retry with smaller batches, would otherwise keep the memory.
    """
    origin: BaseException | None = error
    while origin is not None:
        traceback.clear_frames(origin.__traceback__)
        origin = origin.__cause__ or origin.__context__


@dataclass
class Usage:
    """Memory that a block of code took, in bytes; that of other threads is included.

    Memory that the process had allocated and freed before the block is not counted.

    Attributes:
        cpu: peak increase of this process's resident memory; None where it cannot be measured.
        cuda: decrease of the GPU's free memory; runtimes keep what they have once allocated.
    """

    cpu: int | None = 0
    cuda: int = 0


@contextmanager
def measured(gpu: int = 0) -> Iterator[Usage]:
    """Measure a block, on the host and on one GPU; the values are set when it ends."""
    usage = Usage()
    try:
        _RESETS_THE_PEAK.write_text("5")
    except OSError:
        usage.cpu = None
    resident, free = process_memory("VmRSS"), _free_if_any(gpu)
    yield usage
    if usage.cpu is not None:
        usage.cpu = max(process_memory("VmHWM") - resident, 0)
    usage.cuda = max(free - _free_if_any(gpu), 0)


def process_memory(key: str) -> int:
    """This process's memory in bytes: `VmRSS` resident now, `VmHWM` its peak; proc(5)."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{key}:")[2].split(maxsplit=1)[0])


def free_on_gpu(ordinal: int) -> int:
    """Free memory of a GPU in bytes.

    Raises:
        InputError, DeviceError: it cannot be measured, see `cuda.call`.
    """
    with cuda.Gpu(ordinal).current():
        return int(cuda.call("cudaMemGetInfo"))


def _free_if_any(ordinal: int) -> int:
    try:
        return free_on_gpu(ordinal)
    except MedfocusError:
        return 0
