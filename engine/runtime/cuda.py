"""CUDA's runtime without PyTorch: memory, copies and a stream; every failure is an error."""

from typing import Any

from numpy.typing import NDArray

from medfocus.errors import DeviceError, InputError


def call(function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime, `cudaMalloc` say.

    Returns:
        Its result, or None if it has none.

    Raises:
        InputError: CUDA's Python bindings are not installed.
        DeviceError: the function fails, for want of a GPU say.
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
    # Here and not above: an engine with another backend loads where CUDA's bindings are missing.
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        raise InputError(
            "CUDA",
            "its Python bindings are not installed",
            "install them (pip install cuda-bindings)",
        ) from error
    return runtime


def architecture() -> int:
    """The compute capability of this thread's GPU as one number, 90 for 9.0.

    Raises:
        InputError, DeviceError: see `call`.
    """
    device = call("cudaGetDevice")
    kinds = _runtime().cudaDeviceAttr
    major = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMajor, device)
    minor = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMinor, device)
    return 10 * int(major) + int(minor)


class Stream:
    """An own stream, never the default one, which waits for all others."""

    def __init__(self) -> None:
        self._stream = call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream as the number that C takes."""
        return int(self._stream)

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Begin to copy a dense array to the GPU; it must not change until `wait`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Begin to copy from the GPU into a dense array, which is prepared after `wait`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait for all that was begun."""
        call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give the stream back."""
        call("cudaStreamDestroy", self._stream)


class Buffer:
    """Memory on the GPU that grows when more is asked for, and else stays where it is."""

    def __init__(self) -> None:
        self._address = 0
        self._bytes = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what was there is lost if it has to grow."""
        if size > self._bytes:
            self.close()
            self._address, self._bytes = int(call("cudaMalloc", size)), size
        return self._address

    def close(self) -> None:
        """Give the memory back."""
        if self._address:
            address, self._address, self._bytes = self._address, 0, 0
            call("cudaFree", address)
