"""Loading a backend and its buffers, within the limits that the caller set."""

from contextlib import nullcontext

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import device_name, parsed
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.memory import (
    Usage,
    clear_frames,
    free_on_gpu,
    is_out_of_memory,
    measured,
)
from medfocus.errors import DeviceError, InputError


def batch_limit(requested: int | None, largest: int, deterministic: bool) -> int:
    """The most images per batch.

    Args:
        requested: by the caller; None for the largest possible.
        largest: batch size that the engine was exported for.
        deterministic: every image runs in a batch of one.

    Raises:
        InputError: `requested` is out of range, or contradicts `deterministic`.
    """
    if deterministic:
        if requested not in (None, 1):
            raise InputError("max_batch", f"is {requested}", "leave it out, or deterministic")
        return 1
    if requested is None:
        return largest
    if type(requested) is not int or not 1 <= requested <= largest:
        raise InputError(
            "max_batch",
            f"is {requested}, and this engine was checked with batches of 1 to {largest}",
            "use one of these, or export it with a larger --batch",
        )
    return requested


def load_within(
    memory_limit: int | None, directory: EngineDirectory, backend: str, device: str, images: int
) -> tuple[Backend, BufferPool]:
    """Load a backend and allocate buffers for batches of `images`.

    Args:
        memory_limit: bytes that both may take, measured on blank images; None for no limit.
        directory: see `load_backend`.
        backend: see `load_backend`.
        device: see `load_backend`.
        images: most images per batch.

    Raises:
        InputError: more memory than allowed, or see `load_backend`.
        DeviceError: out of memory.
    """
    try:
        return _load(memory_limit, directory, backend, device, images)
    except Exception as error:
        clear_frames(error)  # frees the buffers, for a caller who retries with fewer images
        raise


def _load(
    memory_limit: int | None, directory: EngineDirectory, backend: str, device: str, images: int
) -> tuple[Backend, BufferPool]:
    manifest = directory.manifest
    hint = "allow more" if images == 1 else f"allow more, or use a max_batch below {images}"
    gpu = parsed(device)[1]
    with measured(gpu) if memory_limit is not None else nullcontext(Usage()) as usage:
        loaded = load_backend(directory, backend, device)
        pool = None
        try:
            if memory_limit is not None and loaded.device == "cuda":
                free_on_gpu(gpu)  # fails here if it cannot be measured
            pool = loaded.buffer_pool(manifest, images)
            if memory_limit is not None:
                pool.warm_up(manifest, images)
        except Exception as error:
            if pool is not None:
                pool.close()
            loaded.close()
            if not is_out_of_memory(error):
                raise
            problem = f"has too little memory for {images} images at once ({error})"
            place = device_name(loaded.device, loaded.ordinal)
            raise DeviceError(place, problem, hint, code="device.out_of_memory") from error
    taken = getattr(usage, loaded.device)
    if memory_limit is not None and taken > memory_limit:
        pool.close()
        loaded.close()
        problem = (
            f"is {memory_limit / 1e9:.2f} GB, and {images} images at once took {taken / 1e9:.2f} GB"
        )
        raise InputError("memory_limit", problem, hint, code="input.memory_limit_exceeded")
    return loaded, pool
