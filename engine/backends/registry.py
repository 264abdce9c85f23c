"""The available backends by name, and loading one.

To add a backend: write a class as `base.Backend` describes, in a file or a folder of its own; name
it in `BACKENDS`; and list its precisions in `artifact/precision.py`.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import has_gpu_driver, parsed, processor_name
from medfocus.errors import EngineDirectoryError, InputError, MedfocusError
from medfocus.settings import Device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend's class is, how its runtime is installed, and where it runs.

    Attributes:
        module: below `medfocus.engine.backends`; imported only when the backend is loaded.
        class_name: the class, constructed as `base.Backend` says.
        install: the command that installs the runtime.
        rank: for each device that it runs on, its place when `auto` chooses and the export did
            not measure how fast the engine's backends are there: 1 is tried first. On a CPU as
            docs/performance.md measured; on a GPU a guess, TensorRT second as it never ran.
    """

    module: str
    class_name: str
    install: str
    rank: Mapping[str, int]


BACKENDS: dict[str, BackendEntry] = {
    "torch": BackendEntry(
        "torch.backend", "TorchBackend", "pip install 'medfocus[torch]'", {"cuda": 1, "cpu": 3}
    ),
    "onnxruntime": BackendEntry(
        "onnxruntime",
        "OnnxRuntimeBackend",
        "pip install 'medfocus[cpu]' (for CUDA: 'medfocus[gpu]')",
        {"cuda": 3, "cpu": 2},
    ),
    "openvino": BackendEntry(
        "openvino", "OpenVinoBackend", "pip install 'medfocus[cpu]'", {"cpu": 1}
    ),
    "tensorrt": BackendEntry(
        "tensorrt.backend", "TensorRTBackend", "pip install 'medfocus[tensorrt]'", {"cuda": 2}
    ),
}
NAMES = tuple(BACKENDS)
DEVICES: tuple[Device, ...] = ("cuda", "cpu")  # in the order that `auto` tries
# Processes that have loaded a runtime whose threads or device do not survive a fork: all but ONNX
# Runtime's on a CPU. In a child even other runtimes then abort or wait for ever.
_not_to_fork: set[int] = set()


def load_backend(directory: EngineDirectory, backend: str, device: str) -> Backend:
    """The first of `usable_backends`; the arguments and errors are the same."""
    return next(usable_backends(directory, backend, device))


def usable_backends(directory: EngineDirectory, backend: str, device: str) -> Iterator[Backend]:
    """Load an engine directory's graphs into a backend that the export checked them in.

    `auto` takes the fastest backend that this engine was exported for, that is installed and that
    the device supports, by the export's figures if it ran on a processor of this name, else in the
    order of `BACKENDS`; each one that it skips is logged with the reason. Whoever cannot use it
    closes it, and takes the next.

    Args:
        directory: as `read_engine_directory` returns it.
        backend: `auto` or a name in `BACKENDS`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; a GPU without a number is the first.

    Raises:
        InputError: a backend or device that is unknown or unavailable, or a backend that this
            engine was not exported for; a process that was forked from one that had loaded one.
        DeviceError: a GPU that fails.
        EngineDirectoryError: a file that is missing, or that the runtime cannot load.
        WeightsError: tensors that do not fit the architectures (torch).
    """
    if _not_to_fork - {os.getpid()}:
        problem = "this process was forked from one that had loaded a runtime, which cannot be here"
        hint = 'start processes with the method "spawn", or load engines only after the fork'
        raise InputError("engine", problem, hint, code="engine.forked")
    if backend not in ("auto", *BACKENDS):
        hint = "use auto, " + ", ".join(BACKENDS)
        raise InputError(f"backend {backend!r}", "is not known", hint, code="backend.unknown")
    kind, _ = parsed(device)
    exported = directory.manifest.backends
    if backend != "auto":
        if backend not in exported:
            raise InputError(
                f"backend {backend}",
                "this engine was not exported for it",
                f"use {' or '.join(exported)}, or export the engine again with that target",
                code="backend.not_exported",
            )
        yield _load(directory, backend, device)
        return
    reasons, any_loaded = [], False
    for place in _places() if kind == "auto" else (device,):
        for name in _fastest_first(directory.manifest, *parsed(place)):
            try:
                loaded = _load(directory, name, place)
            except MedfocusError as error:
                log.info("skipped backend %s on %s: %s", name, place, error)
                reasons.append(f"{name}: {error.problem}")
            else:
                any_loaded = True
                yield loaded
    if any_loaded:
        return
    raise InputError(
        "backend auto",
        f"none of this engine's backends runs here on {device} ({'; '.join(reasons) or 'none'})",
        "install one of them, or export the engine again for one that is installed",
        code="backend.none_usable",
    )


def _places() -> tuple[Device, ...]:
    return DEVICES if has_gpu_driver() else ("cpu",)


def _fastest_first(manifest: Manifest, device: str, ordinal: int) -> list[str]:
    """The engine's backends for a device; ranked by figures only if all of them have one."""
    able = [name for name in manifest.backends if device in BACKENDS[name].rank]
    speeds = [speed for name, speed in manifest.speeds.items() if name in able]
    measured_on = {(speed.device, speed.processor) for speed in speeds}
    if len(speeds) == len(able) > 1 and measured_on == {(device, processor_name(device, ordinal))}:
        return sorted(able, key=lambda name: manifest.speeds[name].seconds_per_image)
    return sorted(able, key=lambda name: BACKENDS[name].rank[device])


def _load(directory: EngineDirectory, name: str, device: str) -> Backend:
    entry = BACKENDS[name]
    # Imported here: each backend must load where the others are not installed.
    try:
        module = import_module(f"medfocus.engine.backends.{entry.module}")
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed"
        raise InputError(
            f"backend {name}", problem, entry.install, code="backend.not_installed"
        ) from error
    except ImportError as error:  # a shared library that is missing or of another version
        problem = f"is installed and cannot be loaded ({error})"
        raise InputError(
            f"backend {name}", problem, entry.install, code="backend.broken"
        ) from error
    try:
        backend: Backend = getattr(module, entry.class_name)(directory, device)
    except MedfocusError:
        raise
    except Exception as error:  # the runtimes' exceptions have no common base class
        raise EngineDirectoryError(
            str(directory.path),
            f"{name} cannot load its graphs ({type(error).__name__}: {error})",
            "export the engine again, or use another backend",
            code="engine.not_loadable",
        ) from error
    if (name, backend.device) != ("onnxruntime", "cpu"):
        _not_to_fork.add(os.getpid())
    parity = directory.manifest.parity.get(name)
    checked = parity.device if parity else "cpu"  # where PyTorch in float32, the reference, ran
    if checked != backend.device:
        log.warning(
            "%s runs on %s, but this engine was only checked on %s", name, backend.device, checked
        )
    return backend
