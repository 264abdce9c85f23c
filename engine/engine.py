"""`Engine`: an engine directory that answers."""

import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medfocus.engine.artifact.directory import EngineDirectory, read_engine_directory
from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.backends.base import Backend
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.images import ImageSource
from medfocus.engine.prediction import Prediction
from medfocus.engine.preprocess.prompts import Box, Points
from medfocus.engine.runtime import cuda
from medfocus.engine.runtime.buffer_pool import BufferPool
from medfocus.engine.runtime.memory import Usage, clear_frames, is_out_of_memory, measured
from medfocus.engine.runtime.metrics import Span, Stats
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PendingPrediction, PromptedSource, stream_sources
from medfocus.errors import DeviceError, InputError, MedfocusError, OutputError, without_traceback

log = logging.getLogger(__name__)

MOST_WAIT_MS = 60_000.0
MOST_THREADS = 16  # that read and prepare
_MISSING: Any = object()


class Engine:
    """Segments and classifies images; made by `Engine.load`. Safe to share between threads.

    Calls from several threads share batches: what waits together runs together.

    Attributes:
        manifest: what the engine directory says about itself.
        backend: the name of the runtime in use; device: where it runs.
    """

    def __init__(self, manifest: Manifest, backend: Backend, pipeline: Pipeline) -> None:
        self.manifest = manifest
        self._backend = backend
        self._pipeline = pipeline
        # The pipeline's threads know nothing of the engine, so that dropping it ends them.
        self._dropped = weakref.finalize(self, pipeline.stop)
        self._dropped.atexit = False  # the pipeline's own way out waits for them

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: str = "auto",
        device: str = "auto",
        *,
        max_batch: int | None = None,
        max_wait_ms: float = 0.0,
        deterministic: bool = False,
        memory_limit: int | None = None,
    ) -> "Engine":
        """Read an engine directory, check every hash, and make its graphs and buffers ready.

        Args:
            path: the directory.
            backend: `auto`, `torch`, `onnxruntime`, `openvino` or `tensorrt`.
            device: `auto`, `cpu` or `cuda`.
            max_batch: most images that run together; by default the largest batch size that the
                engine was exported for.
            max_wait_ms: milliseconds for which images wait for others to fill a batch. With 0
                they go together only if they waited anyway, while a batch was under way.
            deterministic: run every image by itself, so that no bit of its answer depends on
                the others in its batch.
            memory_limit: bytes of the device's memory that the engine may take with `max_batch`
                images under way; this is measured on blank ones before it is let in.

        Raises:
            EngineDirectoryError: incomplete, changed, or of an unknown schema.
            WeightsError: tensors that do not fit the architectures it names.
            InputError: a backend or device that is not there, a setting out of its range, or more
                memory than allowed.
            DeviceError: a GPU that fails, or too little memory for the buffers.
        """
        directory = read_engine_directory(path)
        manifest = directory.manifest
        images = _batch_limit(max_batch, manifest.buckets[-1], deterministic)
        if not 0 <= max_wait_ms <= MOST_WAIT_MS:
            raise InputError("max_wait_ms", f"is {max_wait_ms}", f"use 0 to {MOST_WAIT_MS:g}")
        if memory_limit is not None and memory_limit <= 0:
            raise InputError("memory_limit", f"is {memory_limit}", "give bytes, or None")
        runtime, pool = _within(memory_limit, directory, backend, device, images)
        pipeline = Pipeline(
            *pool,
            max_batch=images,
            max_wait=max_wait_ms / 1000,
            threads=min(len(os.sched_getaffinity(0)), MOST_THREADS),
            release=runtime.close,
        )
        log.info("engine loaded: backend %s on %s", runtime.name, runtime.device)
        return cls(manifest, runtime, pipeline)

    @property
    def backend(self) -> str:
        """The name of the runtime in use."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda`."""
        return self._backend.device

    def classify(
        self,
        batch: ImageSource | Iterable[ImageSource],
        *,
        boxes: Sequence[Box | None] | None = None,
        points: Sequence[Points | None] | None = None,
        strict: bool = False,
    ) -> list[Prediction]:
        """Classify images; every item of the batch is answered, in order.

        Args:
            batch: paths, uint8 or float arrays and tensors, PIL images, or one of these; an array
                of four dimensions is a batch itself. A file of several frames gives a prediction
                a frame.
            boxes: (left, top, right, bottom) an item, or None where it has none, in its pixels.
            points: [(x, y), ...] or [(x, y, 1 inside | 0 outside), ...] an item, or None.
            strict: raise the first item's error instead of answering with it.

        Raises:
            InputError: an empty batch, boxes or points that are not one an item, a closed engine.
            DeviceError: the backend died in an earlier call.
            MedfocusError: with `strict`, what is wrong with an item.
        """
        sources = _as_list(batch)
        for prompts, name in ((boxes, "boxes"), (points, "points")):
            if prompts is not None and len(prompts) != len(sources):
                problem = f"{len(prompts)} for {len(sources)} images"
                raise InputError(name, problem, "give one an image, None for none")
        answers = list(self.stream(sources, boxes=boxes, points=points))
        for answer in answers:
            if strict and answer.error is not None:
                raise answer.error
        return answers

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        boxes: Iterable[Box | None] | None = None,
        points: Iterable[Points | None] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify images one after another, in order, in bounded memory.

        Reading, segmentation and classification of different images go on at once, and while the
        caller works on a prediction. Files are read by threads; what is in memory is copied when
        the iterable gives it. Where the iterable itself raises, so does this, once all that came
        before is answered.

        Args:
            sources: as the items of `classify`'s batch; may be endless. Pulled in the caller's
                thread, some batches ahead of the predictions.
            boxes, points: as `classify`'s, one a source.
            batch_size: images that are submitted together; by default `max_batch`. With 1 each
                is under way at once.

        Raises:
            InputError: boxes or points that are not one a source, a closed engine.
            DeviceError: the backend died in an earlier call. Where it dies in this one, each
                prediction that is left carries that error.
        """
        pending = self._respond(sources, boxes, points, batch_size)
        return (self._prediction(item) for item in pending)

    def stream_each(
        self, sources: Iterable[ImageSource], *, batch_size: int | None = None
    ) -> Iterator[list[Prediction]]:
        """As `stream`, with a list a source: the predictions of its frames."""
        pending = self._respond(sources, None, None, batch_size)
        for _, frames in groupby(pending, key=lambda item: item.number):
            yield [self._prediction(item) for item in frames]

    def stats(self) -> Stats:
        """What it has done since it was loaded, and what waits."""
        return self._pipeline.stats()

    def tracing(self) -> AbstractContextManager[list[Span]]:
        """A list that receives every piece of work that is done until the block ends."""
        return self._pipeline.tracing()

    def close(self) -> None:
        """Answer what is under way, then release threads and memory.

        What waits in other threads is answered with an InputError, and so is every later call.
        """
        self._dropped.detach()
        self._pipeline.close()

    def _respond(
        self,
        sources: Iterable[ImageSource],
        boxes: Iterable[Box | None] | None,
        points: Iterable[Points | None] | None,
        batch_size: int | None,
    ) -> Iterator[PendingPrediction]:
        if batch_size is not None and batch_size < 1:
            raise InputError("batch_size", f"is {batch_size}", "use 1 or more, or None")
        if self._pipeline.forked:
            problem = "was loaded in another process, whose threads did not come along in the fork"
            raise InputError("engine", problem, "load it in each process")
        if self._pipeline.failure is not None:
            raise without_traceback(self._pipeline.failure)
        prompted = _prompted(sources, boxes, points)
        size = batch_size or self._pipeline.max_batch
        return stream_sources(self._pipeline, prompted, self.manifest.prompts, size)

    def _prediction(self, item: PendingPrediction) -> Prediction:
        try:
            answer = item.future.result()
        except MedfocusError as error:
            return _failed(item.source, without_traceback(error))
        if not np.isfinite(answer.probabilities).all():
            problem = "the model's probabilities are not finite numbers"
            hint = "check the engine's weights and head; the image itself was readable"
            return _failed(item.source, OutputError(item.source, problem, hint))
        classes = self.manifest.classes
        steered = self.manifest.focus.mode != "none"
        return Prediction(
            source=item.source,
            label=classes[int(answer.probabilities.argmax())],
            probabilities=dict(zip(classes, answer.probabilities.tolist(), strict=True)),
            focused=answer.focused,
            focus_score=answer.score if steered else None,
            focus_logits=answer.focus_logits if steered else None,
            image_size=item.image_size,
            patch_focus=answer.patch_focus if steered else None,
            warnings=item.warnings,
        )


def _batch_limit(asked: int | None, largest: int, deterministic: bool) -> int:
    if deterministic:
        if asked not in (None, 1):
            raise InputError("max_batch", f"is {asked}", "leave it out, or deterministic")
        return 1
    if asked is None:
        return largest
    if type(asked) is not int or not 1 <= asked <= largest:
        raise InputError(
            "max_batch",
            f"is {asked}, and this engine was checked with batches of 1 to {largest}",
            "use one of these, or export it with a larger --batch",
        )
    return asked


def _within(
    limit: int | None, directory: EngineDirectory, backend: str, device: str, images: int
) -> tuple[Backend, BufferPool]:
    """The runtime, and buffers for batches of `images`, in no more memory than `limit`."""
    try:
        return _ready(limit, directory, backend, device, images)
    except Exception as error:
        clear_frames(error)  # the buffers, for whoever tries again with fewer images
        raise


def _ready(
    limit: int | None, directory: EngineDirectory, backend: str, device: str, images: int
) -> tuple[Backend, BufferPool]:
    manifest = directory.manifest
    hint = "allow more" if images == 1 else f"allow more, or use a max_batch below {images}"
    with measured() if limit is not None else nullcontext(Usage()) as usage:
        runtime = load_backend(directory, backend, device)
        pool = None
        try:
            if limit is not None and runtime.device == "cuda":
                cuda.call("cudaMemGetInfo")  # without it nothing can be measured
            pool = runtime.buffer_pool(manifest, images)
            if limit is not None:
                pool.warm_up(manifest, images)
        except Exception as error:
            if pool is not None:
                pool.close()
            runtime.close()
            if not is_out_of_memory(error):
                raise
            problem = f"has too little memory for {images} images at once ({error})"
            raise DeviceError(runtime.device, problem, hint) from error
    need = getattr(usage, runtime.device)
    if limit is not None and need > limit:
        pool.close()
        runtime.close()
        problem = f"is {limit / 1e9:.2f} GB, and {images} images at once took {need / 1e9:.2f} GB"
        raise InputError("memory_limit", problem, hint)
    return runtime, pool


def _prompted(
    sources: Iterable[ImageSource],
    boxes: Iterable[Box | None] | None,
    points: Iterable[Points | None] | None,
) -> Iterator[PromptedSource]:
    if _is_one(sources):
        raise InputError("sources", "are one image", "give a list of it, or use classify")
    given = [column for column in (boxes, points) if column is not None]
    for source, *own in zip_longest(sources, *given, fillvalue=_MISSING):
        if any(value is _MISSING for value in (source, *own)):
            raise InputError("boxes, points", "are not one a source", "give None for none")
        box = None if boxes is None else own[0]
        yield PromptedSource(source, box, None if points is None else own[-1])


def _as_list(batch: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """The items of a batch; one image is a batch of one."""
    if _is_one(batch):
        return [batch]  # type: ignore[list-item]
    try:
        items = list(batch)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            "batch", f"is a {type(batch).__name__}", "give a list of images, or one image"
        ) from None
    if not items:
        raise InputError("batch", "is empty", "give at least one image")
    return items


def _is_one(given: object) -> bool:
    """Whether it is an image itself, and not a collection of them."""
    return isinstance(given, str | Path | Image.Image) or getattr(given, "ndim", None) in (2, 3)


def _failed(name: str, error: MedfocusError) -> Prediction:
    return Prediction(name, None, {}, False, None, None, None, None, (), error)
