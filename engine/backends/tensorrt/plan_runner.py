"""A TensorRT plan, loaded and run: named tensors, one context, one stream.

Imported only once `require_tensorrt` has passed.
"""

from collections import deque
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory, load_bytes
from medfocus.engine.runtime import cuda
from medfocus.errors import DeviceError, EngineDirectoryError, InputError

Limits = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # input -> smallest, largest shape

MESSAGES_KEPT = 100  # a plan that warns in every call must not fill a service's memory

_T = TypeVar("_T")


class Logger(trt.ILogger):  # type: ignore[misc]  # Any where TensorRT is not installed
    """Keeps the latest warnings and errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # as the bindings demand, not through super()
        self._lines: deque[str] = deque(maxlen=MESSAGES_KEPT)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity not in (trt.ILogger.INFO, trt.ILogger.VERBOSE):
            self._lines.append(f"{severity.name.lower()}: {msg}")

    def drain_messages(self) -> str:
        """The messages kept since the last call, one per line."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return "\n".join(lines) or "TensorRT gave no reason"


class PlanRunner:
    """One plan of an engine directory, on its own stream; one run at a time.

    Raises:
        EngineDirectoryError: the plan has changed, or TensorRT cannot load it.
        DeviceError: CUDA fails.
    """

    def __init__(self, directory: EngineDirectory, name: str) -> None:
        self._item = str(directory.file(name))
        self._logger = Logger()
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._created(
            self._runtime.deserialize_cuda_engine(load_bytes(directory, name))
        )
        self._context = self._created(self._engine.create_execution_context())
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._dtypes = {name: trt.nptype(self._engine.get_tensor_dtype(name)) for name in names}
        self._profiles = [self._limits(i) for i in range(self._engine.num_optimization_profiles)]
        self._profile = 0  # a new context uses the first
        self._buffers = {name: cuda.Buffer() for name in names}
        self._stream = cuda.Stream()

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Inputs by name -> outputs by name; floating outputs as float32.

        Raises:
            InputError: a shape that no profile of the plan allows.
            DeviceError: TensorRT or CUDA fails.
        """
        self._choose_profile(arrays)
        # Kept alive until the copies have ended.
        inputs = {
            name: np.ascontiguousarray(arrays[name], self._dtypes[name]) for name in self._inputs
        }
        for name, array in inputs.items():
            address = self._buffers[name].reserve(array.nbytes)
            self._stream.upload(array, address)
            self._check(self._context.set_input_shape(name, array.shape))
            self._check(self._context.set_tensor_address(name, address))
        outputs = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs[name] = np.empty(shape, self._dtypes[name])
            address = self._buffers[name].reserve(outputs[name].nbytes)
            self._check(self._context.set_tensor_address(name, address))
        self._check(self._context.execute_async_v3(self._stream.handle))
        for name, array in outputs.items():
            self._stream.download(self._buffers[name].reserve(array.nbytes), array)
        self._stream.wait()
        return {name: _single(array) for name, array in outputs.items()}

    def close(self) -> None:
        """Destroy the context before its engine, and the engine before its runtime."""
        del self._context
        del self._engine
        del self._runtime
        for buffer in self._buffers.values():
            buffer.close()
        self._stream.close()

    def _limits(self, profile: int) -> Limits:
        limits = {}
        for name in self._inputs:
            least, _, greatest = self._engine.get_tensor_profile_shape(name, profile)
            limits[name] = (tuple(least), tuple(greatest))
        return limits

    def _choose_profile(self, arrays: dict[str, NDArray[Any]]) -> None:
        shapes = {name: arrays[name].shape for name in self._inputs}
        fitting = [i for i, limits in enumerate(self._profiles) if _fits(shapes, limits)]
        if not fitting:
            raise InputError(
                f"shapes {shapes}",
                f"are outside those that {self._item} was built for: {self._profiles}",
                "use smaller batches or fewer points, or export the engine with larger buckets",
                code="input.shape_not_built",
            )
        if fitting[0] != self._profile:
            self._check(
                self._context.set_optimization_profile_async(fitting[0], self._stream.handle)
            )
            self._stream.wait()
            self._profile = fitting[0]

    def _created(self, result: _T | None) -> _T:
        if result is None:
            problem = (
                f"cannot be loaded by TensorRT {trt.__version__}: {self._logger.drain_messages()}"
            )
            hint = "export the engine with --targets tensorrt on this machine"
            raise EngineDirectoryError(self._item, problem, hint, code="engine.not_loadable")
        return result

    def _check(self, result: bool) -> None:
        if not result:
            raise DeviceError(
                self._item, self._logger.drain_messages(), "report this with the versions in use"
            )


def _fits(shapes: dict[str, tuple[int, ...]], limits: Limits) -> bool:
    return all(
        len(shape) == len(least)
        and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        for shape, (least, most) in ((shapes[name], limits[name]) for name in shapes)
    )


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Floating-point arrays as float32, all others unchanged."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
