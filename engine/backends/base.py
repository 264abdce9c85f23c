"""What the engine asks of a backend: the two graphs, buffers for a pipeline, an end."""

from typing import Protocol

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.graphs import Graphs
from medfocus.settings import Device


class Backend(Graphs, Protocol):
    """What the engine asks of a runtime."""

    name: str
    device: Device

    def buffer_pool(self, manifest: Manifest, images: int) -> BufferPool:
        """Buffers for batches of `images` images, and streams, for a pipeline of its own."""

    def close(self) -> None:
        """Release memory and devices; the backend cannot be used afterwards."""
