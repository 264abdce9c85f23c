"""Memory: what "out of it" looks like in each runtime, and how much of it an engine takes."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medfocus.engine.runtime import cuda
from medfocus.errors import DeviceError, InputError, MedfocusError

OOM_PATTERNS = (
    "out of memory",  # CUDA, PyTorch
    "outofmemory",  # TensorRT
    "alloc_failed",  # cuBLAS, cuDNN
    "failed to allocate",  # ONNX Runtime
    "bad_alloc",  # C++, through OpenVINO
    "bad allocation",
    "allocate memory",  # PyTorch on a CPU
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; the runtimes share no class for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(saying in said for saying in OOM_PATTERNS)


def no_memory_for(source: str, work: str, error: BaseException) -> DeviceError:
    """The answer for one image whose own size asks for more than there is.

    Args:
        source: the image.
        work: what was to be done to it.
        error: that says so.
    """
    problem = f"there is no memory to {work} it ({str(error) or type(error).__name__})"
    return DeviceError(source, problem, "free some, or shrink it")


def clear_frames(error: BaseException) -> None:
    """Free what an error's frames hold, and those of the errors that it came from.

    Whoever keeps the error, to try again with less, would else keep what took the memory.
    """
    origin: BaseException | None = error
    while origin is not None:
        traceback.clear_frames(origin.__traceback__)
        origin = origin.__cause__ or origin.__context__


@dataclass
class Usage:
    """What a block of code took, in bytes; other threads' is in it too.

    Memory that the process had already, and had freed, is not.

    Attributes:
        cpu: by which this process's resident memory rose at the most.
        cuda: that the GPU has less free than before; runtimes keep what they once took.
    """

    cpu: int = 0
    cuda: int = 0


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure a block; the figures are there once it has ended."""
    usage = Usage()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    except OSError as error:
        hint = "leave memory_limit out"
        raise InputError("memory_limit", f"cannot be measured here ({error})", hint) from error
    resident, free = process_memory("VmRSS"), _free_on_gpu()
    yield usage
    usage.cpu = max(process_memory("VmHWM") - resident, 0)
    usage.cuda = max(free - _free_on_gpu(), 0)


def process_memory(key: str) -> int:
    """This process's memory in bytes: `VmRSS` resident now, `VmHWM` at its highest; proc(5)."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{key}:")[2].split(maxsplit=1)[0])


def _free_on_gpu() -> int:
    """Bytes; 0 where there is no GPU."""
    try:
        return int(cuda.call("cudaMemGetInfo"))
    except MedfocusError:
        return 0
