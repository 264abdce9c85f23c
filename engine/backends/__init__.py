"""Runtimes of the two graphs, a small file each: load, run, close."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.artifact import EngineDirectory
from medfocus.errors import InputError

Array = NDArray[np.float32]


class Backend(Protocol):
    """What the engine asks of a runtime. Arrays in, arrays out, one batch a call."""

    name: str
    device: str

    def segment(
        self, image: Array, points: Array, labels: NDArray[np.int32]
    ) -> tuple[Array, Array]:
        """(B, 3, S, S), (B, P, n, 2), (B, P, n) -> focus logits (B, h, w), score (B,)."""

    def classify(
        self, image: Array, focus_logits: Array, rows: Array, cols: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """(B, 3, R, R), (B, h, w), (B, c, h), (B, c, w) -> embedding (B, E),
        probabilities (B, C), patch focus (B, g, g), focused (B,)."""

    def close(self) -> None:
        """Release memory and devices; the backend cannot be used afterwards."""


def load_backend(directory: EngineDirectory, backend: str, device: str) -> Backend:
    """Load an engine directory's graphs.

    Args:
        directory: read and checked.
        backend: `auto` or `torch`.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputError: a backend or device that is unknown or not there, or a precision that no
            backend here has.
    """
    if directory.manifest.precision != "fp32":
        raise InputError(
            f"precision {directory.manifest.precision}",
            "is one that the torch backend does not have yet",
            "export the engine in fp32",
        )
    if backend not in ("auto", "torch"):
        raise InputError(f"backend {backend!r}", "not known", "use auto or torch")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device!r}", "not known", "use auto, cpu or cuda")
    # Here and not above: an engine with another backend must load where torch is not installed.
    try:
        from medfocus.engine.backends.torch import TorchBackend
    except ModuleNotFoundError as error:
        raise InputError(
            "backend torch", f"{error.name} is not installed", f"pip install {error.name}"
        ) from error
    return TorchBackend(directory, device)
