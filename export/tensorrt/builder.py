"""TensorRT's builder: a strongly typed network from ONNX, its profiles, its progress.

Imported only once `require_tensorrt` has passed.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorrt as trt
from rich.progress import Progress, TaskID

from medfocus.engine.backends.tensorrt.plan_runner import Logger
from medfocus.errors import EngineDirectoryError
from medfocus.export.tensorrt.profiles import Profile


class Builder:
    """Builds plans for this thread's GPU, one after the other.

    Args:
        cache: file of measured kernel times; read if it fits, made or replaced after a build.
        plugins: take Python plugins' ahead-of-time kernels.
        progress: shows phases and steps.
    """

    def __init__(self, cache: Path, plugins: bool, progress: Progress | None) -> None:
        self._cache, self._plugins = cache, plugins
        self._monitor = Monitor(progress) if progress else None
        self._logger = Logger()

    def build(self, path: Path, profiles: Sequence[Profile]) -> memoryview:
        """A graph's plan, as bytes.

        Raises:
            EngineDirectoryError: TensorRT refuses the graph or cannot build it.
        """
        builder = trt.Builder(self._logger)
        network = builder.create_network(self._flags())
        # The parser reads weights while the network is built, so it must live as long.
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise self._error(path, "is refused by TensorRT's parser", _errors(parser))
        config = builder.create_builder_config()
        # A float32 in the graph is meant: TensorFloat-32, on by default, keeps 10 bits of 23.
        config.clear_flag(trt.BuilderFlag.TF32)
        if self._monitor:
            config.progress_monitor = self._monitor
        for shapes in profiles:
            profile = builder.create_optimization_profile()
            for name, (least, tuned, greatest) in shapes.items():
                profile.set_shape(name, trt.Dims(least), trt.Dims(tuned), trt.Dims(greatest))
            if config.add_optimization_profile(profile) < 0:
                raise self._error(path, f"cannot have the profile {shapes}")
        cache = self._read_cache(config)
        plan = builder.build_serialized_network(network, config)
        if self._monitor and self._monitor.interrupted:
            raise KeyboardInterrupt
        if plan is None:
            raise self._error(path, "cannot be built by TensorRT")
        self._write_cache(cache)
        return memoryview(plan)

    def _flags(self) -> int:
        flags = trt.NetworkDefinitionCreationFlag
        chosen = 1 << int(flags.STRONGLY_TYPED)  # precisions are the graph's; in 11 the only kind
        if self._plugins:
            chosen |= 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
        return chosen

    def _error(self, path: Path, problem: str, details: str = "") -> EngineDirectoryError:
        said = "\n".join(filter(None, (details, self._logger.drain_messages())))
        hint = "export without TensorRT, or with another version of it, and report this"
        return EngineDirectoryError(str(path), f"{problem} {trt.__version__}:\n{said}", hint)

    def _read_cache(self, config: trt.IBuilderConfig) -> trt.ITimingCache:
        try:
            data = self._cache.read_bytes()
        except OSError:
            data = b""
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, False):
            # Of another GPU or version, or torn: begin anew.
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _write_cache(self, cache: trt.ITimingCache) -> None:
        """Whole or not at all; a build that is done does not fail for it."""
        with contextlib.suppress(OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._cache.parent, delete=False) as file:
                file.write(memoryview(cache.serialize()))
            Path(file.name).replace(self._cache)


def _errors(parser: trt.OnnxParser) -> str:
    """All that the parser found, in full."""
    lines = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        lines.append(
            f"{error.code()}: node {error.node()} {error.node_name()!r} ({error.node_operator()}): "
            f"{error.desc()} [{error.func()}, {error.file()}:{error.line()}]"
        )
    return "\n".join(lines)


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # Any where TensorRT is not installed
    """Shows a bar a phase of the build. TensorRT calls it from any of its threads."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)  # as the bindings demand, not through super()
        self.interrupted = False
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A bar, below that of the phase it is part of."""
        self._tasks[phase_name] = self._progress.add_task(phase_name, total=num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """False stops the build: an interrupt that was raised in here would be lost."""
        try:
            if phase_name in self._tasks:
                self._progress.update(self._tasks[phase_name], completed=step + 1)
        except KeyboardInterrupt:
            self.interrupted = True
        return not self.interrupted

    def phase_finish(self, phase_name: str) -> None:
        """The bar goes."""
        if phase_name in self._tasks:
            self._progress.remove_task(self._tasks.pop(phase_name))
