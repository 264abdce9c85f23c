"""The interface that every backend implements."""

from typing import Protocol

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.graphs import Graphs
from medfocus.settings import Device


class Backend(Graphs, Protocol):
    """A runtime with both graphs of one engine directory loaded.

    Its class is constructed as `(directory: EngineDirectory, device: str)`, with `device` as
    `device.parsed` takes it. It may be used from any thread, whatever that thread's own GPU is.

    Attributes:
        name: its key in `registry.BACKENDS`.
        device: where it runs.
        ordinal: of its GPU, from 0; 0 on the CPU.
    """

    name: str
    device: Device
    ordinal: int

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """Allocate buffers for batches of `images` images, and the streams of a pipeline."""

    def close(self) -> None:
        """Release memory and devices; the backend cannot be used afterwards."""
