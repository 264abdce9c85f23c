"""The backends by name: which can run an engine here, and loading one.

A backend is a file or a folder of this room with a class that `base.Backend` describes. To add one,
write that class, name it in `BACKENDS`, and give it its precisions in `artifact/precision.py`.
"""

import logging
from importlib import import_module
from typing import NamedTuple

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.backends.base import Backend
from medfocus.errors import EngineDirectoryError, InputError, MedfocusError

log = logging.getLogger(__name__)


# Where each may run, the fastest first.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cuda": ("tensorrt", "torch", "onnxruntime"),
    "cpu": ("openvino", "onnxruntime", "torch"),
}


class Source(NamedTuple):
    """Where a backend's class is, and what installs the runtime it needs."""

    module: str
    class_name: str
    install: str


BACKENDS = {
    "torch": Source("torch.backend", "TorchBackend", "pip install 'medfocus[torch]'"),
    "onnxruntime": Source(
        "onnxruntime",
        "OnnxRuntimeBackend",
        "pip install 'medfocus[cpu]', or 'medfocus[gpu]' for CUDA",
    ),
    "openvino": Source("openvino", "OpenVinoBackend", "pip install 'medfocus[cpu]'"),
    "tensorrt": Source("tensorrt.backend", "TensorRTBackend", "pip install 'medfocus[tensorrt]'"),
}
NAMES = tuple(BACKENDS)


def load_backend(directory: EngineDirectory, backend: str, device: str) -> Backend:
    """Load an engine directory's graphs into a runtime that the export checked them in.

    `auto` takes the fastest that this engine was exported for, that is installed, and that the
    device has; each that it passes over is logged with the reason.

    Args:
        directory: read and checked.
        backend: `auto`, `torch`, `onnxruntime`, `openvino` or `tensorrt`.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputError: a backend or device that is unknown or not there, or one that this engine was
            not exported for.
        DeviceError: a GPU that fails.
        EngineDirectoryError: a file that is missing, or that the runtime cannot load.
        WeightsError: tensors that do not fit the architectures (torch).
    """
    if backend not in ("auto", *NAMES):
        raise InputError(f"backend {backend!r}", "not known", "use auto, " + ", ".join(NAMES))
    if device not in ("auto", *PREFERENCE):
        raise InputError(f"device {device!r}", "not known", "use auto, cpu or cuda")
    exported = directory.manifest.backends
    if backend != "auto":
        if backend not in exported:
            raise InputError(
                f"backend {backend}",
                "this engine was not exported for it",
                f"use {' or '.join(exported)}, or export the engine again with that target",
            )
        return _load(directory, backend, device)
    reasons = []
    for place in PREFERENCE if device == "auto" else (device,):
        for name in PREFERENCE[place]:
            if name not in exported:
                continue
            try:
                return _load(directory, name, place)
            except MedfocusError as error:
                log.info("%s on %s passed over: %s", name, place, error)
                reasons.append(f"{name}: {error.problem}")
    raise InputError(
        "backend auto",
        f"none of this engine's backends runs here on {device} ({'; '.join(reasons) or 'none'})",
        "install one of them, or export the engine again for one that is installed",
    )


def _load(directory: EngineDirectory, name: str, device: str) -> Backend:
    source = BACKENDS[name]
    # Imported here and not above: each must load where the others are not installed.
    try:
        module = import_module(f"medfocus.engine.backends.{source.module}")
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed"
        raise InputError(f"backend {name}", problem, source.install) from error
    except ImportError as error:  # a shared library that is missing or of another version
        problem = f"is installed and cannot be loaded ({error})"
        raise InputError(f"backend {name}", problem, source.install) from error
    try:
        backend: Backend = getattr(module, source.class_name)(directory, device)
    except MedfocusError:
        raise
    except Exception as error:  # each runtime has its own kinds, with no base in common
        raise EngineDirectoryError(
            str(directory.path),
            f"{name} cannot load its graphs ({type(error).__name__}: {error})",
            "export the engine again, or use another backend",
        ) from error
    parity = directory.manifest.parity.get(name)
    checked = parity.device if parity else "cpu"  # where PyTorch in float32, the reference, ran
    if checked != backend.device:
        log.warning(
            "%s runs on %s, and this engine was checked on %s alone", name, backend.device, checked
        )
    return backend
