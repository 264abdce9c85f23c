"""A TensorRT plan, loaded and run: named tensors, contexts, one stream.

Imported only once `require_tensorrt` has passed.
"""

import logging
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from medfocus.engine.artifact.directory import EngineDirectory, load_bytes
from medfocus.engine.backends.tensorrt.memory import Buffer
from medfocus.engine.runtime import cuda
from medfocus.errors import DeviceError, EngineDirectoryError, InputError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Limits = dict[str, tuple[Shape, Shape]]  # input -> smallest, largest shape

log = logging.getLogger(__name__)

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
    """One plan of an engine directory, on its own stream; used by one thread at a time.

    Its execution contexts share one scratch memory, so they all run on that stream only, one after
    another. There is a context per profile, since switching profiles may copy and wait, and one per
    CUDA graph, which relies on its context to remain as it was.

    Attributes:
        inputs: names.
        dtypes: of all tensors, by name.
        stream: the stream.

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
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self.dtypes = {name: trt.nptype(self._engine.get_tensor_dtype(name)) for name in names}
        self._profiles = [self._limits(i) for i in range(self._engine.num_optimization_profiles)]
        self._buffers = {name: Buffer() for name in names}
        self._scratch = Buffer()
        self.stream = cuda.Stream()
        self._contexts = [self._context(i) for i in range(len(self._profiles))]
        self._capturable = True
        self._captured: list[tuple[cuda.Graph, trt.IExecutionContext]] = []

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Inputs by name -> outputs by name; floating outputs as float32.

        Raises:
            InputError: a shape that no profile of the plan allows.
            DeviceError: TensorRT or CUDA fails.
        """
        # Kept alive until the copies have ended.
        inputs = {
            name: np.ascontiguousarray(arrays[name], self.dtypes[name]) for name in self.inputs
        }
        shapes = {name: array.shape for name, array in inputs.items()}
        outputs = {
            name: np.empty(shape, self.dtypes[name])
            for name, shape in self.output_shapes(shapes).items()
        }
        addresses = {
            name: self._buffers[name].reserve(array.nbytes)
            for name, array in (inputs | outputs).items()
        }
        for name, array in inputs.items():
            self.stream.upload(array, addresses[name])
        self.enqueue(shapes, addresses)
        for name, array in outputs.items():
            self.stream.download(addresses[name], array)
        self.stream.wait()
        return {name: _single(array) for name, array in outputs.items()}

    def largest(self, name: str) -> Shape:
        """The largest size of each dimension of an input that any profile allows."""
        sizes = zip(*(limits[name][1] for limits in self._profiles), strict=True)
        return tuple(map(max, sizes))

    def output_shapes(self, shapes: Shapes) -> dict[str, Shape]:
        """The outputs' shapes, from the inputs'; raises what `run` does."""
        context = self._contexts[self._profile(shapes)]
        self._set_shapes(context, shapes)
        return {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}

    def require(self, shapes: Shapes) -> None:
        """Raise an error if no profile of the plan allows these shapes of the inputs.

        Raises:
            InputError: so it is (`input.shape_not_built`).
        """
        self._profile(shapes)

    def enqueue(self, shapes: Shapes, addresses: Mapping[str, int]) -> None:
        """Submit the plan to the stream; raises what `run` does.

        Args:
            shapes: of the inputs.
            addresses: of all tensors, on the GPU.
        """
        context = self._contexts[self._profile(shapes)]
        self._bind(context, shapes, addresses)
        self._execute(context)

    def captured(self, shapes: Shapes, addresses: Mapping[str, int]) -> cuda.Graph | None:
        """The same as a CUDA graph, which lives as long as this.

        Returns:
            None, with a warning logged once, if this plan cannot be captured.
        """
        if not self._capturable:
            return None
        context = self._context(self._profile(shapes))
        self._bind(context, shapes, addresses)
        self._execute(context)  # what TensorRT does after a change of shapes is not to be captured
        self.stream.wait()
        try:
            graph = cuda.Graph(self.stream, partial(self._execute, context))
        except DeviceError as error:
            log.warning("%s: CUDA graph capture failed, running eagerly (%s)", self._item, error)
            self._capturable = False
            return None
        self._captured.append((graph, context))
        return graph

    def close(self) -> None:
        """Destroy graphs and contexts before their engine, and the engine before its runtime."""
        for graph, _ in self._captured:
            graph.close()
        self._captured.clear()
        self._contexts.clear()
        del self._engine
        del self._runtime
        for buffer in (*self._buffers.values(), self._scratch):
            buffer.close()
        self.stream.close()

    def _context(self, profile: int) -> trt.IExecutionContext:
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._created(self._engine.create_execution_context(strategy))
        size = self._engine.device_memory_size_v2
        context.set_device_memory(self._scratch.reserve(size), size)
        self._check(context.set_optimization_profile_async(profile, self.stream.handle))
        self.stream.wait()
        return context

    def _limits(self, profile: int) -> Limits:
        limits = {}
        for name in self.inputs:
            least, _, greatest = self._engine.get_tensor_profile_shape(name, profile)
            limits[name] = (tuple(least), tuple(greatest))
        return limits

    def _profile(self, shapes: Shapes) -> int:
        fitting = [i for i, limits in enumerate(self._profiles) if _fits(shapes, limits)]
        if not fitting:
            raise InputError(
                f"shapes {shapes}",
                f"are outside those that {self._item} was built for: {self._profiles}",
                "use smaller batches or fewer points, or export the engine with larger buckets",
                code="input.shape_not_built",
            )
        return fitting[0]

    def _set_shapes(self, context: trt.IExecutionContext, shapes: Shapes) -> None:
        for name in self.inputs:
            self._check(context.set_input_shape(name, shapes[name]))

    def _bind(
        self, context: trt.IExecutionContext, shapes: Shapes, addresses: Mapping[str, int]
    ) -> None:
        self._set_shapes(context, shapes)
        for name, address in addresses.items():
            self._check(context.set_tensor_address(name, address))

    def _execute(self, context: trt.IExecutionContext) -> None:
        self._check(context.execute_async_v3(self.stream.handle))

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


def _fits(shapes: Shapes, limits: Limits) -> bool:
    return all(
        len(shape) == len(least)
        and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        for shape, (least, most) in ((shapes[name], limits[name]) for name in shapes)
    )


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Floating-point arrays as float32, all others unchanged."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
