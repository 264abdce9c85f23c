"""Measures how fast a backend is, as the engine will run it."""

from contextlib import closing
from statistics import median

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.speed import Speed
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import processor_name
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.image_request import ImageRequest
from medfocus.engine.runtime.memory import clear_frames, is_out_of_memory

BATCHES = 3  # measured, after one to warm up


def measured_speed(backend: Backend, manifest: Manifest, image: SourceImage) -> Speed | None:
    """Run batches of one image's copies through the buffers that an engine would use.

    On a CPU batches of one image: there larger ones are hardly faster, and seconds of an export.

    Returns:
        None where the processor has no name, or where the largest batch does not fit: an engine
        that runs in smaller ones there has another speed.
    """
    processor = processor_name(backend.device, backend.ordinal)
    if processor is None:
        return None
    count = manifest.buckets[-1] if backend.device == "cuda" else 1
    requests = [ImageRequest(image, manifest.prompts) for _ in range(count)]
    try:
        with closing(backend.buffer_pool(manifest, count)) as pool:
            seconds = [pool.seconds(pool.buffers[0], requests) for _ in range(1 + BATCHES)]
    except Exception as error:  # the runtimes' exceptions have no common base class
        if not is_out_of_memory(error):
            raise
        clear_frames(error)
        return None
    return Speed(median(seconds[1:]) / count, backend.device, processor)
