"""The CUDA runtime without PyTorch: GPUs, streams, copies, graphs; every failure raises.

What is allocated or created belongs to the calling thread's current GPU, see `Gpu`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from numpy.typing import NDArray

from medfocus.errors import DeviceError, InputError


def call(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime, for example `cudaMalloc`.

    Returns:
        Its result, or None if it has none.

    Raises:
        InputError: CUDA's Python bindings are not installed.
        DeviceError: the function fails, for example because there is no GPU.
    """
    cuda = _runtime()
    error, *results = getattr(cuda, function)(*arguments)
    if error != cuda.cudaError_t.cudaSuccess:
        text = cuda.cudaGetErrorString(error)[1].decode()
        raise _failed(function, text)
    return results[0] if results else None


def _call_driver(function: str, *arguments: Any) -> Any:
    driver = _driver()
    error, *results = getattr(driver, function)(*arguments)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise _failed(function, driver.cuGetErrorString(error)[1].decode())
    return results[0] if results else None


def _failed(function: str, text: str) -> DeviceError:
    hint = "check the GPU with nvidia-smi, or use the cpu"
    return DeviceError("CUDA", f"{function} failed: {text}", hint)


def _runtime() -> Any:
    # Imported here: an engine with another backend must load without CUDA's bindings.
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        raise InputError(
            "CUDA",
            "its Python bindings are not installed",
            "pip install cuda-bindings",
            code="backend.not_installed",
        ) from error
    return runtime


def _driver() -> Any:
    from cuda.bindings import driver  # after `_runtime`, which says what is missing

    return driver


def count() -> int:
    """How many GPUs CUDA can see.

    Raises:
        InputError, DeviceError: see `call`.
    """
    return int(call("cudaGetDeviceCount"))


def name(ordinal: int) -> str:
    """The name of a GPU, for example NVIDIA H200; makes no context there.

    Raises:
        InputError, DeviceError: see `call`; there is no such GPU.
    """
    count()  # fails in our own words where there is no CUDA
    _call_driver("cuInit", 0)
    text: bytes = _call_driver("cuDeviceGetName", 256, _call_driver("cuDeviceGet", ordinal))
    return text.partition(b"\0")[0].decode()


class Gpu:
    """One GPU, which threads make their current one for a while.

    By its primary context, which is PyTorch's and every runtime's as well. Not with cudaSetDevice:
    to set back a thread that never used the first GPU would create a context there, which takes
    hundreds of MB of a GPU that may be somebody else's. Like the CUDA runtime this keeps the
    context until the process ends.

    Args:
        ordinal: its number, from 0; there must be such a GPU.

    Raises:
        InputError, DeviceError: see `call`.
    """

    def __init__(self, ordinal: int) -> None:
        count()  # fails in our own words where there is no CUDA
        _call_driver("cuInit", 0)
        device = _call_driver("cuDeviceGet", ordinal)
        self._context = _call_driver("cuDevicePrimaryCtxRetain", device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it this thread's GPU while the block runs."""
        _call_driver("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            _call_driver("cuCtxPopCurrent")


def architecture() -> int:
    """The compute capability of this thread's GPU as one number: 90 for 9.0.

    Raises:
        InputError, DeviceError: see `call`.
    """
    device = call("cudaGetDevice")
    kinds = _runtime().cudaDeviceAttr
    major = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMajor, device)
    minor = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMinor, device)
    return 10 * int(major) + int(minor)


class Stream:
    """A CUDA stream; never the default stream, which synchronises with all others."""

    def __init__(self) -> None:
        cuda = _runtime()
        self._stream = call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        # Whoever waits for it sleeps; by default waiting spins.
        flags = cuda.cudaEventBlockingSync | cuda.cudaEventDisableTiming
        self._submitted = call("cudaEventCreateWithFlags", flags)

    @property
    def handle(self) -> int:
        """The stream's handle as an integer, for C APIs."""
        return int(self._stream)

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Start copying a contiguous array to the GPU; it must not change until that has ended.

        From an array in pageable memory the copy is slower, and may be waited for.
        """
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Start copying from the GPU into a contiguous array, which is complete after `wait`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait for everything submitted so far; by one thread at a time."""
        call("cudaEventRecord", self._submitted, self._stream)
        call("cudaEventSynchronize", self._submitted)

    def follow(self, other: "Stream") -> None:
        """Let what is submitted from now on begin after everything submitted to `other` so far."""
        call("cudaEventRecord", other._submitted, other._stream)
        call("cudaStreamWaitEvent", self._stream, other._submitted, 0)

    def close(self) -> None:
        """Destroy the stream."""
        call("cudaEventDestroy", self._submitted)
        call("cudaStreamDestroy", self._stream)


class Graph:
    """What work submits to a stream, as a CUDA graph.

    Args:
        stream: on which it is captured; only this thread's calls are watched meanwhile.
        work: submits to that stream, and does nothing else with the GPU.

    Raises:
        DeviceError: the work cannot be captured; it was not run, and the stream can be used.
    """

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream._stream, mode)
        try:
            work()
        except BaseException:
            with suppress(DeviceError):
                call("cudaGraphDestroy", call("cudaStreamEndCapture", stream._stream))
            raise
        graph = call("cudaStreamEndCapture", stream._stream)
        try:
            self._graph = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        """Submit it to a stream."""
        call("cudaGraphLaunch", self._graph, stream._stream)

    def close(self) -> None:
        """Destroy the graph."""
        call("cudaGraphExecDestroy", self._graph)
