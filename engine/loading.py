"""Loading a backend and its buffers, within the limits that the caller set."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext

from medfocus.engine.artifact.directory import EngineDirectory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.device import device_name, parsed
from medfocus.engine.backends.registry import usable_backends
from medfocus.engine.checking.check_images import CheckImage, read_check_images
from medfocus.engine.checking.self_check import require_answer
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.memory import (
    Usage,
    clear_frames,
    free_on_gpu,
    is_out_of_memory,
    measured,
)
from medfocus.errors import DeviceError, InputError, ParityError

log = logging.getLogger(__name__)


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
    memory_limit: int | None,
    directory: EngineDirectory,
    backend: str,
    device: str,
    images: int,
    *,
    verify: bool = True,
) -> tuple[Backend, BufferPool]:
    """Load a backend, allocate buffers for batches of `images`, and check its answer.

    With `auto`, a backend that does not give a check image's answer on this machine is logged as a
    warning, and the next one is taken.

    Args:
        memory_limit: bytes that both may take, measured on blank images; None for no limit.
        directory: see `usable_backends`.
        backend: see `usable_backends`.
        device: see `usable_backends`.
        images: most images per batch.
        verify: compare the backend's answer for the engine's first check image.

    Raises:
        InputError: more memory than allowed, or see `usable_backends`.
        ParityError: the answer is too far from the float32 model's (`parity.missed_here`).
        DeviceError: out of memory.
        EngineDirectoryError: unusable check images, or see `usable_backends`.
    """
    try:
        check = _first_check_image(directory) if verify else None
        candidates, gpu = usable_backends(directory, backend, device), parsed(device)[1]
        refusal: ParityError | None = None
        while True:
            try:
                found = _load(memory_limit, candidates, directory.manifest, images, gpu, check)
            except ParityError as error:
                if backend != "auto":
                    raise
                clear_frames(error)
                log.warning("%s", error)
                refusal = error
            else:
                if found is not None:
                    return found
                assert refusal is not None, "without any backend the iterator raises"
                raise refusal
    except Exception as error:
        clear_frames(error)  # frees the buffers, for a caller who retries with fewer images
        raise


def _first_check_image(directory: EngineDirectory) -> CheckImage | None:
    images = read_check_images(directory)
    if not images:
        log.info("this engine has no check images: its answers are not checked on this machine")
        return None
    return images[0]


def _load(
    memory_limit: int | None,
    candidates: Iterator[Backend],
    manifest: Manifest,
    images: int,
    gpu: int,
    check: CheckImage | None,
) -> tuple[Backend, BufferPool] | None:
    """The next backend with its buffers, if there is one."""
    hint = "allow more" if images == 1 else f"allow more, or use a max_batch below {images}"
    with measured(gpu) if memory_limit is not None else nullcontext(Usage()) as usage:
        loaded = next(candidates, None)
        if loaded is None:
            return None
        pool = None
        try:
            if memory_limit is not None and loaded.device == "cuda":
                free_on_gpu(gpu)  # fails here if it cannot be measured
            pool = loaded.buffer_pool(manifest, images)
            if memory_limit is not None:
                pool.warm_up(manifest, images)
            if check is not None:
                require_answer(loaded, pool, manifest, check)
        except Exception as error:
            if pool is not None:
                pool.close()
            loaded.close()
            if not is_out_of_memory(error):
                raise
            problem = f"has too little memory for {images} images at once ({error})"
            place = device_name(loaded.device, loaded.ordinal)
            raise DeviceError(place, problem, hint, code="device.out_of_memory") from error
    taken: int | None = getattr(usage, loaded.device)
    if memory_limit is None or (taken is not None and taken <= memory_limit):
        return loaded, pool
    pool.close()
    loaded.close()
    if taken is None:
        problem = "cannot be measured: this system has no /proc/self/clear_refs"
        raise InputError("memory_limit", problem, "leave memory_limit out")
    problem = (
        f"is {memory_limit / 1e9:.2f} GB, and {images} images at once took {taken / 1e9:.2f} GB"
    )
    raise InputError("memory_limit", problem, hint, code="input.memory_limit_exceeded")
