"""The CUDA runtime without PyTorch: memory, copies and a stream; every failure raises."""

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
        raise DeviceError(
            "CUDA", f"{function} failed: {text}", "check the GPU with nvidia-smi, or use the cpu"
        )
    return results[0] if results else None


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
        self._stream = call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream's handle as an integer, for C APIs."""
        return int(self._stream)

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Start copying a contiguous array to the GPU; it must not change until `wait`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Start copying from the GPU into a contiguous array, which is complete after `wait`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait for everything submitted so far."""
        call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Destroy the stream."""
        call("cudaStreamDestroy", self._stream)


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
