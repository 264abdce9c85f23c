"""Memory: what "out of it" looks like in each runtime, and how much of it an engine takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medfocus.engine import cuda
from medfocus.errors import MedfocusError

# CUDA and PyTorch; ONNX Runtime; the C++ library, through OpenVINO; PyTorch's CPU allocator.
_SAYINGS = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation", "allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; the runtimes share no class for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(saying in said for saying in _SAYINGS)


@dataclass
class Usage:
    """What a block of code took, in bytes; other threads' is in it too.

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
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    resident, free = _status("VmRSS"), _free_on_gpu()
    yield usage
    usage.cpu = max(_status("VmHWM") - resident, 0)
    usage.cuda = max(free - _free_on_gpu(), 0)


def _status(key: str) -> int:
    """A size in /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{key}:")[2].split(maxsplit=1)[0])


def _free_on_gpu() -> int:
    """Bytes; 0 where there is no GPU."""
    try:
        return int(cuda.call("cudaMemGetInfo"))
    except MedfocusError:
        return 0
