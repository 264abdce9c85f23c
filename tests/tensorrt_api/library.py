"""A stand-in for TensorRT that behaves as documented and computes with ONNX Runtime.

Names and parameters are those of the real bindings, which tests/export/tensorrt/test_contract.py
checks. A plan is the graph's file name and the profiles, as JSON.
"""

import ctypes
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

__version__ = "11.4.0.106"

# Set and inspected by the tests.
parser_errors: list[dict[str, Any]] = []
build_fails = False
seen: dict[str, Any] = {}
device: Any = None  # the stand-in for CUDA


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 0
    PREFER_JIT_PYTHON_PLUGINS = 1
    PREFER_AOT_PYTHON_PLUGINS = 2


class BuilderFlag(enum.IntEnum):
    TF32 = 5


class TensorIOMode(enum.IntEnum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.IntEnum):
    FLOAT = 0
    INT32 = 4
    BOOL = 6


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._initialised = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class Dims:
    """Iterable, but not comparable with another."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __getitem__(self, index: int) -> int:
        return self._shape[index]

    def __eq__(self, other: object) -> bool:
        raise TypeError("Dims can only be compared with tuples and lists")


class IHostMemory(bytes):
    """In the bindings it supports the buffer protocol, and is not bytes."""


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data + b"+")


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        assert all(isinstance(shape, Dims) for shape in (min, opt, max))
        self._shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    progress_monitor: Any = None

    def __init__(self) -> None:
        self._profiles: list[dict[str, list[list[int]]]] = []
        self._flags = {BuilderFlag.TF32}
        self._cache: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        ordered = all(
            a <= b <= c
            for shapes in profile._shapes.values()
            for a, b, c in zip(*shapes, strict=True)
        )
        if not ordered:
            return -1
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache._data.startswith(b"torn"):
            return False
        self._cache = cache
        return True


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._strong = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._aot = bool(flags & 1 << NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
        self._path = ""


class ParserError:
    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def code(self) -> Any:
        return self._fields["code"]

    def desc(self) -> Any:
        return self._fields["desc"]

    def file(self) -> Any:
        return self._fields["file"]

    def line(self) -> Any:
        return self._fields["line"]

    def func(self) -> Any:
        return self._fields["func"]

    def node(self) -> Any:
        return self._fields["node"]

    def node_name(self) -> Any:
        return self._fields["node_name"]

    def node_operator(self) -> Any:
        return self._fields["node_operator"]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger._initialised, "the base class was not initialised"
        self._network = network

    @property
    def num_errors(self) -> int:
        return len(parser_errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(parser_errors[index])

    def parse_from_file(self, model: str) -> bool:
        self._network._path = model
        return not parser_errors


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        name = Path(network._path).stem
        seen[name] = {
            "strong": network._strong,
            "aot": network._aot,
            "tf32": BuilderFlag.TF32 in config._flags,
            "cache": config._cache._data if config._cache else None,
            "profiles": config._profiles,
        }
        if monitor := config.progress_monitor:
            assert monitor._initialised, "the base class was not initialised"
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Tuning", "Building", 5)
            steps = [monitor.step_complete("Tuning", step) for step in range(5)]
            monitor.phase_finish("Tuning")
            monitor.phase_finish("Building")
            if not all(steps):
                return None
        if build_fails:
            self._logger.log(ILogger.INFO, "looking for a kernel")
            self._logger.log(ILogger.ERROR, "no kernel for node 7")
            return None
        plan = {"graph": str(Path(network._path).resolve()), "profiles": config._profiles}
        return IHostMemory(json.dumps(plan).encode())


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(ILogger.ERROR, "the plan's header is wrong")
            return None
        return ICudaEngine(plan, self._logger)


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
        self._graph = onnx.load(plan["graph"], load_external_data=False).graph
        self._session = onnxruntime.InferenceSession(
            plan["graph"], providers=["CPUExecutionProvider"]
        )
        self._profiles, self._logger = plan["profiles"], logger
        self._streams: dict[int, int] = {}  # of each scratch memory
        self._values = {v.name: v for v in [*self._graph.input, *self._graph.output]}

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        inputs = {value.name for value in self._graph.input}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kinds = {1: DataType.FLOAT, 6: DataType.INT32, 9: DataType.BOOL}
        return kinds[self._values[name].type.tensor_type.elem_type]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(tuple(shape)) for shape in self._profiles[profile_index][name]]

    def _shape(self, name: str, inputs: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for value in self._graph.input:
            for d, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
                assert not d.dim_param or sizes.setdefault(d.dim_param, size) == size
        dimensions = self._values[name].type.tensor_type.shape.dim
        return tuple(sizes.get(d.dim_param, d.dim_value) for d in dimensions)

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        def view(name: str) -> NDArray[Any]:
            dtype, shape = np.dtype(nptype(self.get_tensor_dtype(name))), self._shape(name, shapes)
            size = int(np.prod(shape)) * dtype.itemsize
            memory = (ctypes.c_char * size).from_address(addresses[name])
            return np.frombuffer(memory, dtype).reshape(shape)

        inputs = {value.name: view(value.name) for value in self._graph.input}
        names = [value.name for value in self._graph.output]
        for name, result in zip(names, self._session.run(names, inputs), strict=True):
            view(name)[...] = result

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> "IExecutionContext":
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class IExecutionContext:
    """Its work is done later, on its stream, with the shapes and addresses of the call."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._settled = False  # whether it was enqueued since its shapes changed

    @property
    def _state(self) -> tuple[Any, ...]:
        return self._profile, dict(self._shapes), dict(self._addresses)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle != 0
        self._profile, self._shapes, self._settled = profile_index, {}, False
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert device.allocated[memory].nbytes >= size >= self._engine.device_memory_size_v2
        self._memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._profiles[self._profile][name]
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            self._engine._logger.log(ILogger.ERROR, f"{name} does not fit profile {self._profile}")
            return False
        self._settled &= self._shapes.get(name) == tuple(shape)
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._engine._shape(name, self._shapes))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle != 0, "the default stream"
        assert self._profile >= 0, "only one context has the first profile from the start"
        assert set(self._addresses) == set(self._engine._values)
        # Contexts that share their memory must not run at the same time.
        assert self._engine._streams.setdefault(self._memory, stream_handle) == stream_handle
        captured = device.capturing(stream_handle)
        if captured and not self._settled:
            device.spoil_capture(stream_handle)
        self._settled = True
        state = self._state

        def run() -> None:
            assert not captured or self._state == state, "a captured context was changed"
            self._engine._compute(*state[1:])

        device.enqueue(stream_handle, run)
        return True


def nptype(trt_type: DataType) -> Any:
    return {DataType.FLOAT: np.float32, DataType.INT32: np.int32, DataType.BOOL: np.bool_}[trt_type]
