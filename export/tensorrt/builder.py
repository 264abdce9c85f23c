"""TensorRT's builder: a strongly typed network from ONNX, its profiles, its progress.

Import it only after `require_tensorrt` has passed.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import tensorrt as trt
from rich.progress import Progress, TaskID

from medfocus.engine.backends.tensorrt.plan_runner import Logger
from medfocus.errors import EngineDirectoryError, FileError
from medfocus.export.tensorrt.profiles import Profile
from medfocus.files.atomic_write import atomic_write


class Builder:
    """Builds plans for this thread's GPU, one after the other.

    Args:
        cache: file of measured kernel times; read if it is usable, written after each build.
        plugins: use the ahead-of-time kernels of Python plugins.
        progress: shows phases and steps; None shows nothing.
    """

    def __init__(self, cache: Path, plugins: bool, progress: Progress | None) -> None:
        self._cache, self._plugins = cache, plugins
        self._monitor = Monitor(progress) if progress else None
        self._logger = Logger()

    def build(self, path: Path, profiles: Sequence[Profile]) -> memoryview:
        """Build a graph's plan, as bytes.

        Raises:
            EngineDirectoryError: TensorRT cannot parse or build the graph (`engine.build_failed`).
        """
        builder = trt.Builder(self._logger)
        network = builder.create_network(self._flags())
        # The network reads weights from the parser while it is built, so the parser is kept.
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise self._error(path, "cannot be parsed by TensorRT", _errors(parser))
        config = builder.create_builder_config()
        # float32 in the graph means float32: TensorFloat-32, the default, keeps 10 of 23 bits.
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
        chosen = 1 << int(flags.STRONGLY_TYPED)  # precision from the graph; in 11 the only mode
        if self._plugins:
            chosen |= 1 << int(flags.PREFER_AOT_PYTHON_PLUGINS)
        return chosen

    def _error(self, path: Path, problem: str, details: str = "") -> EngineDirectoryError:
        messages = "\n".join(filter(None, (details, self._logger.drain_messages())))
        return EngineDirectoryError(
            str(path),
            f"{problem} {trt.__version__}:\n{messages}",
            "export without TensorRT, or with another version of it, and report this",
            code="engine.build_failed",
        )

    def _read_cache(self, config: trt.IBuilderConfig) -> trt.ITimingCache:
        try:
            data = self._cache.read_bytes()
        except OSError:
            data = b""
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, False):
            # Of another GPU or version, or damaged: start with an empty one.
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _write_cache(self, cache: trt.ITimingCache) -> None:
        """Write the cache; a finished build does not fail because of it."""
        with contextlib.suppress(FileError):
            atomic_write(self._cache, bytes(memoryview(cache.serialize())))


def _errors(parser: trt.OnnxParser) -> str:
    """All errors that the parser reported, one per line."""
    lines = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        lines.append(
            f"{error.code()}: node {error.node()} {error.node_name()!r} ({error.node_operator()}): "
            f"{error.desc()} [{error.func()}, {error.file()}:{error.line()}]"
        )
    return "\n".join(lines)


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # Any where TensorRT is not installed
    """Shows one bar per phase of the build. TensorRT calls it from any of its threads."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)  # the bindings require this instead of super()
        self.interrupted = False
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Add a bar for a phase, below its parent's."""
        self._tasks[phase_name] = self._progress.add_task(phase_name, total=num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Advance a phase's bar; returning False stops the build.

        An interrupt raised in here would be lost in TensorRT, so it is remembered.
        """
        try:
            if phase_name in self._tasks:
                self._progress.update(self._tasks[phase_name], completed=step + 1)
        except KeyboardInterrupt:
            self.interrupted = True
        return not self.interrupted

    def phase_finish(self, phase_name: str) -> None:
        """Remove the phase's bar."""
        if phase_name in self._tasks:
            self._progress.remove_task(self._tasks.pop(phase_name))
